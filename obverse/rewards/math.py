"""Mathematical answers: equal as exact numbers, or as text in one spelling, or by computer algebra in a worker.

Three steps, the first that decides wins; docs/graders.md has them in full.

1. Here, in microseconds: the same text; numbers as fractions (`obverse.rewards.number_parsing`); the same LaTeX once
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
import struct
from decimal import Decimal
from math import isfinite
from typing import Any

from obverse.errors import GraderError
from obverse.rewards import worker_pool as workers
from obverse.rewards.algebra_requests import Question, ask
from obverse.rewards.answer_equality import equal as same_answer
from obverse.rewards.answer_extraction import UNANSWERED, final_answer, last_box, outcome
from obverse.rewards.composite_answers import assignments
from obverse.rewards.number_parsing import bare, number
from obverse.rewards.prefilter import objection as refused
from obverse.rewards.reasoning_blocks import reasons
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
    """Return the expected answer as text: the contents of its last box if it has one.

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
    if boxed is None and len(text) > 4 and (said := _STATEMENT.fullmatch(text)):
        text = said[1].strip()
    if not text:
        raise GraderError("empty")
    return text


def _shortest(value: float) -> str:
    """The shortest decimal of a number; of one that was stored in 32 bits, the shortest that such a number needs."""
    exact = repr(value)
    if value and abs(value) < 3e38 and len(exact.lstrip("-0.").replace(".", "")) > 12:
        stored = struct.unpack("f", struct.pack("f", value))[0]
        if stored == value:
            for digits in range(1, 10):
                short = f"{value:.{digits}g}"
                if struct.unpack("f", struct.pack("f", float(short)))[0] == value:
                    return short
    return exact


def answer(problem: Problem, text: str) -> str | None:
    """Return the final answer of a text as this verifier reads it.

    "The answer is X" and "answer: X" count, and so does a text that is nothing but a number.
    """
    found = final_answer(text, phrases=True)
    if found is None and len(text) <= MAX_WHOLE_CHARS and not reasons(text) and (whole := _WHOLE.match(outcome(text))):
        return whole[1].strip("`")
    return found


def stated(problem: Problem) -> str:
    """Return a text that gives the expected answer."""
    return f"<answer>{gold(problem)}</answer>"


def verify(problem: Problem, text: str) -> GradeResult:
    """Right if the final answer equals the expected one.

    Example:
        verify(Problem("p", "...", answer="1,080"), "... so she has \\boxed{1080}.").correct
    """
    expected, found = gold(problem), answer(problem, text)
    return judge(expected, found) if found else UNANSWERED


def decide(problem: Problem, text: str) -> GradeResult | None:
    """Return the verdict where it needs no worker, None where it does."""
    expected, found = gold(problem), answer(problem, text)
    if not found:
        return UNANSWERED
    return None if _compared(bare(expected), bare(found))[0] is None else judge(expected, found)


def same(problem: Problem, first: str, second: str) -> bool:
    """Whether two final answers are equal; one that only a failing worker could tell is not."""
    return bool(judge(first, second).correct or judge(second, first).correct)


def judge(expected: str, found: str) -> GradeResult:
    """Return the verdict on a final answer."""
    one, other = bare(expected), bare(found)
    grade, code = _compared(one, other)
    if code:
        return GradeResult.wrong(f"prefilter: {code}")
    try:
        right, why = (grade, "") if grade is not None else ask(((one, other),))
    except workers.WorkerError as error:
        return GradeResult(None, 0.0, str(error))
    if right:
        return GradeResult.right()
    return GradeResult.wrong(
        f"{why}: {found[:80]!a}" if why not in ("", "gold") else f"{found[:80]!a} is not the answer"
    )


def compare(expected: str, found: str) -> bool | list[Question]:
    """Return whether an answer equals the expected one, or, where only computer algebra knows, what to ask it.

    Not symmetric, since only the expected answer may ask for a unit. All questions must be answered by yes.
    """
    expected, found = bare(expected), bare(found)
    grade, _ = _compared(expected, found)
    return [(expected, found)] if grade is None else grade


def _compared(expected: str, found: str) -> tuple[bool | None, str]:
    """The verdict as far as no computer algebra is needed, and the code of the prefilter if that decided."""
    codes: list[str] = []

    def ask_later(one: str, other: str) -> bool | None:
        code = refused(one, other)
        codes.extend([code] if code else [])
        return False if code else None

    grade = same_answer(expected, found, ask_later)
    return grade, codes[0] if codes and grade is False else ""


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


def value(text: str) -> str:
    """Return what an assignment `x = ...` assigns; any other text as it is."""
    assigned = assignments(text)
    return assigned[0][1] if assigned and len(assigned) == 1 else text
