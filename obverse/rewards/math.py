"""Mathematical answers: compared as exact numbers, as normalized LaTeX, or by computer algebra in a worker process.

Three steps, of which the first that decides gives the grade; docs/graders.md describes them in full.

1. In this process, in microseconds: identical text, numbers as fractions (`obverse.rewards.number_parsing`), and LaTeX
   after normalization. A percent sign is only accepted where the reference has one. A unit is ignored where the
   reference is a plain number; an expected unit may be omitted but not replaced by another one. `x = 42` equals 42
   unless the reference is an equation, and vice versa; every side of a chain `2 + 40 = 42` must equal the reference.
2. A prefilter rejects answers on which computer algebra might not terminate: wrong, with the reason `prefilter: CODE`.
3. math-verify in a process that can be killed. More than a fixed amount of work is wrong, with the reason `too_hard`.
"""

from __future__ import annotations

import re
import struct
from decimal import Decimal
from math import isfinite
from typing import Any

from obverse.errors import GraderError
from obverse.rewards.algebra_requests import FormulaPair, ask
from obverse.rewards.answer_equality import equal_answers
from obverse.rewards.answer_extraction import UNANSWERED, final_answer, last_box, outcome
from obverse.rewards.number_parsing import bare, number
from obverse.rewards.prefilter import rejection_code
from obverse.rewards.reasoning_blocks import has_reasoning
from obverse.rewards.worker_pool import WorkerError
from obverse.types import GradeResult, Problem

MAX_WHOLE_CHARS = 200


_STATEMENT = re.compile(  # an answer that is written as a sentence
    r"(?:(?:so|thus|therefore|hence),?\s)?(?:(?:the|my)\s)?(?:(?:final|correct)\s)?(?:answer|ans)\s{0,4}(?:is\b:?|:|=)\s*(.*?)\.?",
    re.IGNORECASE | re.DOTALL,
)
_MARKS_IN_FRONT = re.compile(r"\A(?:#{1,6}\s|\*\*(?:final\s)?answer:?\*\*:?\s)", re.IGNORECASE)
_WHOLE = re.compile(
    r"\A[\s`*_$]*(?:[a-z]*\n)?(?:(?:so|therefore|thus|hence|then|it's|it\sis|that's|that\sis|we\sget|(?:the\s)?(?:result|total|sum|value)"
    r"(?:\sis)?)\b[\s,:=]*){0,3}([$`\\(]{0,3}[-+]?[0-9.][0-9,./]*[`)$]{0,3}%?)[\s`*_$]*[.!]?\s*\Z",
    re.IGNORECASE,
)


def gold(problem: Problem) -> str:
    """Return the reference answer as text: the content of its last box if it has one.

    Errors: GraderError if the answer is neither text nor a finite number, or is blank.
    """
    answer: Any = problem.answer
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise GraderError(f"the math verifier needs text or a number, not {type(answer).__name__}")
    if isinstance(answer, float):
        if not isfinite(answer):
            raise GraderError(f"{answer} is not a finite number")
        return format(Decimal(_shortest(answer)), "f")
    text = str(answer)
    boxed = last_box(text)
    text = (text if boxed is None else boxed).strip()
    if boxed is None:
        text = _MARKS_IN_FRONT.sub("", text).strip() or text
    if boxed is None and len(text) > 4 and (statement := _STATEMENT.fullmatch(text)):
        text = statement[1].strip()
    if not text:
        raise GraderError("empty")
    return text


def _shortest(value: float) -> str:
    """Return the shortest decimal of a float64; for a value that was stored as float32, its shortest decimal."""
    exact = repr(value)
    if value and abs(value) < 3e38 and len(exact.lstrip("-0.").replace(".", "")) > 12:
        as_float32 = struct.unpack("f", struct.pack("f", value))[0]
        if as_float32 == value:
            for digits in range(1, 10):
                decimal = f"{value:.{digits}g}"
                if struct.unpack("f", struct.pack("f", float(decimal)))[0] == value:
                    return decimal
    return exact


def extract(problem: Problem, text: str) -> str | None:
    """Return the final answer of a completion.

    "The answer is X" and "answer: X" count, and so does a completion that consists of a number only.
    """
    answer = final_answer(text, phrases=True)
    if (
        answer is None
        and len(text) <= MAX_WHOLE_CHARS
        and not has_reasoning(text)
        and (whole := _WHOLE.match(outcome(text)))
    ):
        return whole[1].strip("`")
    return answer


def example(problem: Problem) -> str:
    """Return a completion that gives the reference answer."""
    return f"<answer>{gold(problem)}</answer>"


def verify(problem: Problem, text: str) -> GradeResult:
    """Grade a completion: correct if the final answer equals the reference answer.

    Example:
        verify(Problem("p", "...", answer="1,080"), "... so she has \\boxed{1080}.").correct
    """
    expected, answer = gold(problem), extract(problem, text)
    return grade_answer(expected, answer) if answer else UNANSWERED


def decide(problem: Problem, text: str) -> GradeResult | None:
    """Return the grade if it can be decided without a worker process, otherwise None."""
    expected, answer = gold(problem), extract(problem, text)
    if not answer:
        return UNANSWERED
    return None if _compare_bare(bare(expected), bare(answer))[0] is None else grade_answer(expected, answer)


def same_answer(problem: Problem, first: str, second: str) -> bool:
    """Return whether two final answers are equal; False where the worker process fails."""
    return bool(grade_answer(first, second).correct or grade_answer(second, first).correct)


def grade_answer(expected: str, answer: str) -> GradeResult:
    """Return the grade of a final answer."""
    bare_expected, bare_answer = bare(expected), bare(answer)
    equal, code = _compare_bare(bare_expected, bare_answer)
    if code:
        return GradeResult.failed(f"prefilter: {code}")
    try:
        correct, reason = (equal, "") if equal is not None else ask(((bare_expected, bare_answer),))
    except WorkerError as error:
        return GradeResult(None, 0.0, str(error))
    if correct:
        return GradeResult.passed()
    if reason in ("", "gold"):
        return GradeResult.failed(f"{answer[:80]!a} is not the answer")
    return GradeResult.failed(f"{reason}: {answer[:80]!a}")


def compare(expected: str, answer: str) -> bool | list[FormulaPair]:
    """Return whether an answer equals the expected one, or the formula pairs that computer algebra has to compare.

    All pairs must be equal. Not symmetric: only the expected answer may require a unit.
    """
    expected, answer = bare(expected), bare(answer)
    equal, _ = _compare_bare(expected, answer)
    return [(expected, answer)] if equal is None else equal


def _compare_bare(expected: str, answer: str) -> tuple[bool | None, str]:
    """Return whether two bare answers are equal, None if that takes computer algebra, and the prefilter's code."""
    codes: list[str] = []

    def compare_formulas(expected_formula: str, formula: str) -> bool | None:
        code = rejection_code(expected_formula, formula)
        codes.extend([code] if code else [])
        return False if code else None

    equal = equal_answers(expected, answer, compare_formulas)
    return equal, codes[0] if codes and equal is False else ""


def is_number(expected: str) -> bool:
    """Return whether a reference answer is a number, which needs no computer algebra."""
    return number(bare(expected)) is not None


def is_parseable(expected: str) -> bool:
    """Return whether computer algebra can parse a reference answer within its limits and finds it equal to itself."""
    expected = bare(expected)
    try:
        return ask(((expected, expected),)) == (True, "")
    except WorkerError:
        return False


def equal_without_algebra(expected: str, answer: str) -> bool:
    """Return whether an answer equals the expected one as numbers or as text, without computer algebra.

    Example:
        equal_without_algebra("0.5", "\\frac{1}{2}") and not equal_without_algebra("10 cm", "10 m")
    """
    return compare(expected, answer) is True
