"""Mathematical answers: equal as exact numbers, or as text in one spelling, or by computer algebra in a worker.

Three steps, the first that decides wins; docs/graders.md has them in full.

1. Here, in microseconds: the same text; numbers as fractions (`obverse.verifiers.numbers`); the same LaTeX once
   differences of spelling are removed. Policy: a percent sign is only right where the expected answer has one; a
   unit is dropped where the expected answer is a plain number, and an expected one may be left out, but not replaced;
   `x = 42` is 42 where the expected answer has no `=`, and the other way round; every side of a chain `2 + 40 = 42`
   must equal it.
2. A prefilter that knows the expected answer refuses what computer algebra might never come back from: wrong, with the
   reason `prefilter: CODE`.
3. math-verify in a process that can be killed: what takes it more than a fixed amount of work is wrong, `too_hard`.
"""

from __future__ import annotations

import re
from decimal import Decimal
from math import isfinite
from typing import Any

from obverse.errors import GraderError
from obverse.records import Problem, Verdict
from obverse.verifiers import workers
from obverse.verifiers.algebra_questions import Question, ask
from obverse.verifiers.extract import UNANSWERED, final_answer, last_box
from obverse.verifiers.numbers import UNIT, bare, normalized, number, same_number
from obverse.verifiers.prefilter import objection as refused

_NAME = r"(?:\\?[A-Za-z]+|[A-Za-z]\([A-Za-z]\)|[A-Za-z]_\{?[A-Za-z0-9]+\}?|\\text\s*\{[^{}0-9]*\})"
_ASSIGNED = re.compile(rf"\s*{_NAME}\s*=\s*([^=]+)")
_NAMED = re.compile(rf"\s*{_NAME}\s*")
_OTHER_RELATION = re.compile(r"[<>!=:]=|=[<>=]")


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


def answer(problem: Problem, text: str) -> str | None:
    """Return the final answer of a text as this verifier reads it; "the answer is X" and "answer: X" count."""
    return final_answer(text, phrases=True)


def stated(problem: Problem) -> str:
    """Return a text that gives the expected answer."""
    return f"<answer>{gold(problem)}</answer>"


def verify(problem: Problem, text: str) -> Verdict:
    """Right if the final answer equals the expected one.

    Example:
        verify(Problem("p", "...", answer="1,080"), "... so she has \\boxed{1080}.").correct
    """
    expected, found = gold(problem), answer(problem, text)
    return judge(expected, found) if found else UNANSWERED


def decide(problem: Problem, text: str) -> Verdict | None:
    """Return the verdict where it needs no worker, None where it does."""
    expected, found = gold(problem), answer(problem, text)
    if not found:
        return UNANSWERED
    asked = compare(expected, found)
    return None if isinstance(asked, list) and not _refusal(asked) else judge(expected, found)


def same(problem: Problem, first: str, second: str) -> bool:
    """Whether two final answers are equal; one that only a failing worker could tell is not."""
    return bool(judge(first, second).correct or judge(second, first).correct)


def judge(expected: str, found: str) -> Verdict:
    """Return the verdict on a final answer."""
    asked = compare(expected, found)
    if isinstance(asked, list) and (code := _refusal(asked)):
        return Verdict.wrong(f"prefilter: {code}")
    try:
        right, why = (asked, "") if isinstance(asked, bool) else ask(tuple(asked))
    except workers.WorkerError as error:
        return Verdict(None, 0.0, str(error))
    if right:
        return Verdict.right()
    return Verdict.wrong(f"{why}: {found[:80]!a}" if why not in ("", "gold") else f"{found[:80]!a} is not the answer")


def compare(expected: str, found: str) -> bool | list[Question]:
    """Return whether an answer equals the expected one, or, where only computer algebra knows, what to ask it.

    Not symmetric, since only the expected answer may ask for a unit. All questions must be answered by yes.
    """
    expected, found = bare(expected), bare(found)
    if expected == found:
        return True
    if "=" in expected and "=" not in found:
        expected = value(expected)
    elif "=" in found and "=" not in expected and not _OTHER_RELATION.search(found):
        return _chain(expected, found)
    elif "=" in found and "=" in expected and _ASSIGNED.fullmatch(expected) and _ASSIGNED.fullmatch(found):
        names = [normalized(text.partition("=")[0]) for text in (expected, found)]
        if names[0] != names[1]:
            return False
        expected, found = value(expected), value(found)
    return _equal(expected, found)


def is_plain(expected: str) -> bool:
    """Whether an expected answer is a number, so that no computer algebra is needed to know it."""
    return number(bare(expected)) is not None


def readable(expected: str) -> bool:
    """Whether computer algebra can read an expected answer, in time, and finds it equal to itself."""
    expected = bare(expected)
    try:
        return ask(((expected, expected),)) == (True, "")
    except workers.WorkerError:
        return False


def equal(expected: str, found: str) -> bool:
    """Whether an answer equals the expected one as far as numbers and text tell, without computer algebra.

    Example:
        equal("0.5", "\\frac{1}{2}") and equal("10", "10 cm") and not equal("10 cm", "10 m")
    """
    return compare(expected, found) is True


def _equal(expected: str, found: str) -> bool | list[Question]:
    wanted, given = number(expected), number(found)
    if wanted and given:
        return same_number(wanted, given)
    one, other = normalized(expected), normalized(found)
    if one == other or (one.isalpha() and len(one) > 2 and one.lower() == other.lower()):
        return True
    if wanted and (not found or "," in found or ";" in found or found.startswith(("\\{", "["))):
        return False  # a list, or nothing, for one value
    units = [normalized(unit[0].replace("~", "")) for text in (expected, found) if (unit := UNIT.search(text))]
    if len(set(units)) > 1:
        return False  # as with numbers, an expected unit may be left out and not replaced
    return [(expected, found)]


def _chain(expected: str, found: str) -> bool | list[Question]:
    """`x = 2 + 40 = 42`: a name may stand in front, and every other side must equal the expected value."""
    sides = [side.strip() for side in found.split("=")]
    if len(sides) > 1 and _NAMED.fullmatch(sides[0]):
        sides = sides[1:]
    questions: list[Question] = []
    for side in sides:
        answer = _equal(expected, side)
        if answer is False or not side:
            return False
        questions += [] if answer is True else answer
    return questions or True


def _refusal(questions: list[Question]) -> str | None:
    return next((code for expected, found in questions if (code := refused(expected, found))), None)


def value(text: str) -> str:
    """Return what an assignment `x = ...` assigns; any other text as it is."""
    match = _ASSIGNED.fullmatch(text)
    return match[1].strip() if match else text
