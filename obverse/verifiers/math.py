"""Mathematical answers: equal as exact numbers, or else the same LaTeX once differences of spelling are removed.

Numbers are whole (`72`, `1,080`, `1{,}080`), decimal (`0.5`) or fractions (`1/2`, `\\frac{1}{2}`, `\\frac12`), compared
as fractions.Fraction. Their policy:

- a percent sign is only right where the expected answer has one: `50\\%` is not 50, but 50 is right for `50\\%`;
- a unit after the number (`10 cm`, `10\\text{ cm}`, `90^\\circ`) is dropped where the expected answer is a plain
  number; an expected unit may be left out, but not replaced by another one; `$18` is 18;
- `x = 42` is 42 where the expected answer has no `=`, and the other way round.

Everything else is compared as text by `normalized`. That two different formulas are equal, as (x+1)^2 and x^2+2x+1, or
2^{10} and 1024, is not seen yet: it needs computer algebra on text that a model wrote, which may only run in a worker
process that can be killed.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from math import isfinite
from typing import Any

from obverse.errors import GraderError
from obverse.records import Problem, Verdict
from obverse.verifiers.extract import UNANSWERED, final_answer, last_box, unboxed

MAX_NUMBER_CHARS = 1_000

_REPLACED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right)(?![A-Za-z])", ""),
        (r"\\[dt]frac(?![A-Za-z])", r"\\frac"),
        (r"(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))", ","),  # 1\,080
        (r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])|~", " "),  # after a backslash it is a line end
        (r"(?<!\\)\\[!$()\[\]]|\$", ""),
        (r"\{,\}", ","),
        (r"\u2212", "-"),
        (r"\\%", "%"),
    )
]
_FRACTION_PARTS = re.compile(r"\\frac\s*(\{[^{}]*\}|[0-9])\s*(\{[^{}]*\}|[0-9])")
_SAME_COMMAND = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r"\1"),
        (r"\\(le|ge|ne)q(?![A-Za-z])", r"\\\1"),
        (r"([\^_])\s*\{([A-Za-z0-9])\}", r"\1\2"),
        (r"(?<![0-9])\s+|\s+(?![0-9])", ""),  # spaces, except between two digits: 1 2 is not 12
    )
]
_BRACED = re.compile(r"\{([^{}]*)\}")
_ASSIGNED = re.compile(r"(?:\\?[A-Za-z]+|[A-Za-z]\([A-Za-z]\))\s*=\s*([^=]+)")

_PLAIN = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:\\frac\s*\{{\s*(?P<top>-?(?:{_PLAIN}))\s*\}}\s*\{{\s*(?P<bottom>-?(?:{_PLAIN}))\s*\}}"
    rf"|(?P<plain>{_PLAIN})(?:\s*/\s*(?P<over>{_PLAIN}))?)"
    r"(?P<rest>.*)",
    re.DOTALL,
)
_UNIT = re.compile(
    r"\s*\\(?:text|textrm|mathrm|mbox)\s*\{[^{}0-9]*\}(?:\^\{?[23]\}?)?"
    r"|\s*\^\s*\{?\s*\\circ\s*\}?\s*(?:[CF])?"
    r"|\s+[A-Za-z]{2,}(?:[ /-][A-Za-z]+){0,3}(?:\^\{?[23]\}?)?"
)
_PERCENT = re.compile(r"\s*(?:%|percent|\\text\s*\{\s*percent\s*\})\s*")
# Words that change a number or argue about it, so that what stands before them is not the answer.
_NO_UNITS = set(
    re.findall(
        "[a-z]+",
        "and or to not is are if when but because than less more greater over times plus minus mod base remainder half "
        "pi dozen hundred thousand million billion trillion sqrt sin cos tan log ln exp inf infty nan approximately",
    )
)


def gold(problem: Problem) -> str:
    """Return the expected answer as text: the contents of its last box if it has one.

    Errors: GraderError if the answer is neither text nor a finite number, or is blank.
    """
    answer: Any = problem.answer
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise GraderError(f"the math verifier needs text or a number, not {type(answer).__name__}")
    if isinstance(answer, float):
        if not isfinite(answer):
            raise GraderError(f"{answer} is not a finite number")
        return format(Decimal(repr(answer)), "f")
    text = str(answer)
    boxed = last_box(text)
    text = (text if boxed is None else boxed).strip()
    if not text:
        raise GraderError("empty")
    return text


def verify(problem: Problem, text: str) -> Verdict:
    """Right if the final answer equals the expected one; "the answer is X" and "answer: X" count as final answers.

    Example:
        verify(Problem("p", "...", answer="1,080"), "... so she has \\boxed{1080}.").correct
    """
    expected = gold(problem)
    found = final_answer(text, phrases=True)
    if not found:
        return UNANSWERED
    return Verdict.right() if equal(expected, found) else Verdict.wrong(f"{found[:80]!a} is not the answer")


def equal(expected: str, found: str) -> bool:
    """Whether an answer equals the expected one; not symmetric, since only the expected one may ask for a unit.

    Example:
        equal("0.5", "\\frac{1}{2}") and equal("10", "10 cm") and not equal("10 cm", "10 m")
    """
    expected, found = bare(expected), bare(found)
    if expected == found:
        return True
    if ("=" in expected) != ("=" in found):
        expected, found = _value_of(expected), _value_of(found)
    wanted, given = number(expected), number(found)
    if wanted and given:
        (value, unit), (given_value, given_unit) = wanted, given
        return value == given_value and (given_unit in ("", unit) or (not unit and given_unit != "%"))
    return normalized(expected) == normalized(found)


def bare(text: str) -> str:
    """Return a formula without what may surround it: dollar signs, a box, bold stars, braces, a period at the end."""
    text = text.strip().strip("*").strip()
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    text = unboxed(text.strip().removesuffix(".").rstrip())
    if braced := _BRACED.fullmatch(text):
        text = braced[1].strip()
    return _FRACTION_PARTS.sub(lambda part: "\\frac" + "".join(map(_braced, part.groups())), text)


def number(text: str) -> tuple[Fraction, str] | None:
    """Return the exact value of a bare number and its unit ("" if it has none, "%" for percent), None if it is none."""
    match = _NUMBER.fullmatch(text) if len(text) <= MAX_NUMBER_CHARS else None
    if match is None:
        return None
    unit = _unit(match["rest"])
    top, bottom = (match["top"], match["bottom"]) if match["top"] else (match["plain"], match["over"] or "1")
    divisor = Fraction(bottom.replace(",", ""))
    if unit is None or divisor == 0:
        return None
    value = Fraction(top.replace(",", "")) / divisor
    return -value if match["sign"] == "-" else value, unit


def normalized(text: str) -> str:
    """Return a bare formula in one spelling: no spaces, `\\text{}` unpacked, `\\leq` as `\\le`, `x^{2}` as `x^2`."""
    for pattern, replacement in _SAME_COMMAND:
        text = pattern.sub(replacement, text)
    return text.removesuffix(".")


def _unit(rest: str) -> str | None:
    """The unit in one spelling, "" for nothing, None if what follows the number is more than a unit."""
    if not rest.strip():
        return ""
    if _PERCENT.fullmatch(rest):
        return "%"
    if not _UNIT.fullmatch(rest):
        return None
    words = re.findall(r"[A-Za-z]+", re.sub(r"\\[a-z]+", "", rest).lower())
    return None if _NO_UNITS.intersection(words) else re.sub(r"\\[a-z]+|[{}\s]", "", rest).lower()


def _value_of(text: str) -> str:
    match = _ASSIGNED.fullmatch(text)
    return match[1].strip() if match else text


def _braced(part: str) -> str:
    return part if part.startswith("{") else f"{{{part}}}"
