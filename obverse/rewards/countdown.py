"""Countdown: an expression over + - * / that uses every given number exactly once and equals the target.

    sum     = product (("+" | "-") product)*
    product = value (("*" | "/") value)*
    value   = whole number | "(" sum ")"

Spaces and line ends are ignored, square brackets count as round ones, and a number or bracket before a bracket is
multiplied by it. The signs U+00D7, U+00F7, U+2212, `x` between numbers and `\\times`, `\\cdot`, `\\div` count as `*`,
`/` and `-`. One `= target` at the end or `target =` at the start is accepted if it is the target, and so are stars,
quotes and a full stop around the expression. Everything else is wrong: a sign before a number (`-5+3`), powers,
decimals, leading zeros. Values are exact fractions. The expression is parsed here and never evaluated as code.
"""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from typing import Any

from obverse.errors import GraderError
from obverse.rewards.answer_extraction import UNANSWERED, final_answer, outcome
from obverse.rewards.reasoning_blocks import has_reasoning
from obverse.types import GradeResult, Problem

MAX_DEPTH = 50  # brackets in brackets
MAX_DIGITS = 100

_TOKEN = re.compile(r"[ \t\r\n]*(?:(0|[1-9][0-9]*)|([-+*/()]))")
_SIGNS = str.maketrans(
    {
        "\u00d7": "*",
        "\u2217": "*",
        "\u22c5": "*",
        "\u00b7": "*",
        "\u00f7": "/",
        "\u2215": "/",
        "\u2212": "-",
        "\u2013": "-",
        "[": "(",
        "]": ")",
        **{chr(code): chr(code - 0xFEE0) for code in range(0xFF08, 0xFF1E)},
    }
)
_COMMANDS = [
    (re.compile(pattern), sign)
    for pattern, sign in (
        (r"\\(?:times|cdot)(?![A-Za-z])|(?<=[0-9)])\s*[xX]\s*(?=[0-9(])", "*"),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\\(?:left|right)(?![A-Za-z])|\\[,;: ]", " "),
        (r"(?<=[0-9)])(\s*)(?=\()|(?<=\))(\s*)(?=[0-9])", "*"),
    )
]
_STATED = re.compile(r"-?[0-9]+(?:\.0*)?")
_WHOLE = re.compile(
    r"[-+*/x()\[\]0-9\s=.\u00d7\u2217\u00f7\u2212]*[0-9)\]]\s*[-+*/x\u00d7\u2217\u00f7\u2212]\s*[(\[0-9][-+*/x()\[\]0-9\s=.\u00d7\u2217\u00f7\u2212]*"
)
_MAX_WHOLE_CHARS = 1_000


class ExpressionError(ValueError):
    """The text is not an expression of the grammar above, or has no value; the message is the reason."""


def gold(problem: Problem) -> tuple[list[int], int]:
    """Return the numbers and the target. Errors: GraderError if the reference answer lacks them or has other types."""
    reference: Any = problem.answer
    if not isinstance(reference, dict) or not {"numbers", "target"} <= reference.keys():
        raise GraderError("the countdown verifier needs an object with numbers and target")
    numbers, target = reference["numbers"], reference["target"]
    if not isinstance(numbers, list) or not numbers or any(type(n) is not int or n < 0 for n in numbers):
        raise GraderError("numbers must be a list of whole numbers from 0 up")
    if type(target) is not int:
        raise GraderError("target must be a whole number")
    return numbers, target


def extract(problem: Problem, text: str) -> str | None:
    """Return the final answer of a completion, or the whole completion if it is only an expression."""
    answer = final_answer(text)
    if (
        answer is None
        and len(text) <= _MAX_WHOLE_CHARS
        and not has_reasoning(text)
        and _WHOLE.fullmatch(whole := outcome(text).strip())
    ):
        return whole
    return answer


def same_answer(problem: Problem, first: str, second: str) -> bool:
    """Return whether two final answers are the same expression apart from spaces; equal values are not enough."""
    return "".join(normalize(first).split()) == "".join(normalize(second).split())


def verify(problem: Problem, text: str) -> GradeResult:
    """Grade a completion: correct if the final answer uses every number exactly once and equals the target.

    Example:
        verify(Problem("p", "...", answer={"numbers": [3, 5, 7, 2], "target": 24}), "<answer>3*5+7+2</answer>").correct
    """
    numbers, target = gold(problem)
    answer = extract(problem, text)
    if not answer:
        return UNANSWERED
    expression, equals, other_side = normalize(answer).partition("=")
    if equals and _is_target(expression, target):
        expression, other_side = other_side, expression
    if equals and not _is_target(other_side, target):
        return GradeResult.failed("the other side of = is not the target")
    try:
        tokens = tokenize(expression, max_numbers=len(numbers))
        used_numbers = [token for token in tokens if isinstance(token, int)]
        if Counter(used_numbers) != Counter(numbers):
            return GradeResult.failed("does not use every number exactly once")
        value = evaluate(tokens)
    except ExpressionError as error:
        return GradeResult.failed(str(error))
    return GradeResult.passed() if value == target else GradeResult.failed("does not equal the target")


def normalize(text: str) -> str:
    """Return an expression with the signs of the grammar, without stars, quotes or delimiters around it."""
    text = text.strip().strip("*`$;").strip().removesuffix(".").strip()
    text = text.removeprefix("\\(").removesuffix("\\)").translate(_SIGNS)
    for pattern, sign in _COMMANDS:
        text = pattern.sub(sign, text)
    return text


def _is_target(side: str, target: int) -> bool:
    side = side.strip()
    return len(side) <= MAX_DIGITS and bool(_STATED.fullmatch(side)) and Fraction(side.rstrip(".")) == target


def tokenize(expression: str, *, max_numbers: int) -> list[int | str]:
    """Return the whole numbers (as int), signs and brackets of an expression; ExpressionError for anything else."""
    tokens: list[int | str] = []
    num_numbers, position, expression = 0, 0, expression.rstrip()
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None:
            raise ExpressionError(f"{expression[position : position + 20].strip()!a} is not part of an expression")
        number, sign = match.groups()
        if number is None:
            tokens.append(sign)
        else:
            num_numbers += 1
            if num_numbers > max_numbers or len(number) > MAX_DIGITS:
                raise ExpressionError("does not use every number exactly once")
            tokens.append(int(number))
        position = match.end()
    return tokens


def evaluate(tokens: list[int | str]) -> Fraction:
    """Return the exact value of an expression by recursive descent; ExpressionError if it does not fit the grammar."""
    value, position = _sum(tokens, 0, 0)
    if position != len(tokens):
        raise ExpressionError(f"unexpected {tokens[position]!r}")
    return value


def _sum(tokens: list[int | str], position: int, depth: int) -> tuple[Fraction, int]:
    value, position = _product(tokens, position, depth)
    while position < len(tokens) and tokens[position] in ("+", "-"):
        sign = tokens[position]
        term, position = _product(tokens, position + 1, depth)
        value = value + term if sign == "+" else value - term
    return value, position


def _product(tokens: list[int | str], position: int, depth: int) -> tuple[Fraction, int]:
    value, position = _value(tokens, position, depth)
    while position < len(tokens) and tokens[position] in ("*", "/"):
        sign = tokens[position]
        factor, position = _value(tokens, position + 1, depth)
        if sign == "/" and factor == 0:
            raise ExpressionError("divides by zero")
        value = value * factor if sign == "*" else value / factor
    return value, position


def _value(tokens: list[int | str], position: int, depth: int) -> tuple[Fraction, int]:
    first = tokens[position] if position < len(tokens) else "the end"
    if isinstance(first, int):
        return Fraction(first), position + 1
    if first != "(":
        raise ExpressionError(f"expected a number or a bracket, found {first!r}")
    if depth == MAX_DEPTH:
        raise ExpressionError(f"more than {MAX_DEPTH} brackets in brackets")
    value, position = _sum(tokens, position + 1, depth + 1)
    if position == len(tokens) or tokens[position] != ")":
        raise ExpressionError("a bracket is not closed")
    return value, position + 1
