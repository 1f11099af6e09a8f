"""Numeric answers: correct within a relative tolerance, TOLERANCE or the row's column `tolerance`.

Numbers are parsed as by the math verifier, with units and percent signs; anything else is wrong.
"""

from __future__ import annotations

from fractions import Fraction

from obverse.errors import GraderError
from obverse.rewards import math
from obverse.rewards.answer_extraction import UNANSWERED
from obverse.rewards.composite_answers import is_name
from obverse.rewards.latex_arithmetic import constant_value
from obverse.rewards.number_parsing import Number, bare, number, same_number
from obverse.rewards.units import NONE, split_unit
from obverse.types import GradeResult, Problem

CHAIN_TOLERANCE = Fraction(1, 10**6)  # relative, between the sides of a chain `a = b = c`
TOLERANCE = 1e-3  # relative to the reference; a reference of 0 allows no other number


def gold(problem: Problem) -> Number:
    """Return the reference number. Errors: GraderError if it is not a number or `tolerance` is not in [0, 1)."""
    expected = number(bare(math.gold(problem)))
    if expected is None:
        raise GraderError("not a number that the numeric verifier can read")
    tolerance = problem.meta.get("tolerance", TOLERANCE)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 1:
        raise GraderError("tolerance must be a number from 0 up to 1, relative to the answer")
    return expected


extract, example = math.extract, math.example


def verify(problem: Problem, text: str) -> GradeResult:
    """Grade a completion: correct if the final answer is a number within the tolerance of the reference.

    Example:
        verify(Problem("p", "...", answer=9.81, meta={"tolerance": 0.01}), "The answer is 9.8 m.").correct
    """
    expected, answer = gold(problem), extract(problem, text)
    if not answer:
        return UNANSWERED
    candidate = _parse(answer)
    if candidate is None:
        return GradeResult.failed(f"unparseable: {answer[:80]!a}")
    is_near = _is_near(problem, expected, candidate)
    return GradeResult.passed() if is_near else GradeResult.failed(f"{answer[:80]!a} is not near enough")


def same_answer(problem: Problem, first: str, second: str) -> bool:
    """Return whether two final answers are numbers within the tolerance of each other."""
    first_number, second_number = _parse(first), _parse(second)
    return first_number is not None and second_number is not None and _is_near(problem, first_number, second_number)


def _parse(answer: str) -> Number | None:
    """Return the number of the last side of `x = a = b`; None unless all sides agree within CHAIN_TOLERANCE."""
    sides = [bare(side.strip()) for side in bare(answer).split("=")]
    if len(sides) > 1 and is_name(sides[0]):
        sides = sides[1:]
    numbers = [_number(side) for side in sides]
    last = numbers[-1]
    if last is None:
        return None
    limit = CHAIN_TOLERANCE * abs(last.value)
    return last if all(side is not None and abs(side.value - last.value) <= limit for side in numbers) else None


def _number(text: str) -> Number | None:
    """Parse a number, or a constant expression followed by a unit."""
    if parsed := number(text):
        return parsed
    core, unit = split_unit(text) or (text, NONE)
    constant = None if unit is None else constant_value(core)
    return None if constant is None or unit is None else Number(constant, unit)


def _is_near(problem: Problem, expected: Number, candidate: Number) -> bool:
    tolerance = Fraction(problem.meta.get("tolerance", TOLERANCE))
    compared = candidate
    if abs(candidate.value - expected.value) <= tolerance * abs(expected.value) and candidate.unit.scale in (
        1,
        expected.unit.scale,
    ):
        compared = candidate._replace(value=expected.value)  # only the unit is still compared
    return same_number(expected, compared)
