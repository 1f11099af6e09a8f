"""A number, right if it is near enough: the relative TOLERANCE, or the row's own `tolerance`.

The number is read as the math verifier reads numbers, units and percent signs included; nothing else is right.
"""

from __future__ import annotations

from fractions import Fraction

from obverse.errors import GraderError
from obverse.rewards import math
from obverse.rewards.answer_extraction import UNANSWERED
from obverse.rewards.composite_answers import is_name
from obverse.rewards.latex_arithmetic import value
from obverse.rewards.number_parsing import Number, bare, number, same_number
from obverse.rewards.units import NONE, tail
from obverse.types import GradeResult, Problem

AGREEMENT = Fraction(1, 10**6)  # of the sides of a chain
TOLERANCE = 1e-3  # of the expected value's size; an expected 0 allows no other number


def gold(problem: Problem) -> Number:
    """Return the expected number. Errors: GraderError if the answer is no number or `tolerance` no share of 1."""
    expected = number(bare(math.gold(problem)))
    if expected is None:
        raise GraderError("not a number that the numeric verifier can read")
    tolerance = problem.meta.get("tolerance", TOLERANCE)
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < 1:
        raise GraderError("tolerance must be a number from 0 up to 1, relative to the answer")
    return expected


answer, stated = math.answer, math.stated  # read and said alike


def verify(problem: Problem, text: str) -> GradeResult:
    """Right if the final answer is a number no further from the expected one than the tolerance.

    Example:
        verify(Problem("p", "...", answer=9.81, meta={"tolerance": 0.01}), "The answer is 9.8 m.").correct
    """
    expected, found = gold(problem), answer(problem, text)
    if not found:
        return UNANSWERED
    given = _read(found)
    if given is None:
        return GradeResult.wrong(f"unparseable: {found[:80]!a}")
    near = _is_near(problem, expected, given)
    return GradeResult.right() if near else GradeResult.wrong(f"{found[:80]!a} is not near enough")


def same(problem: Problem, first: str, second: str) -> bool:
    """Whether two final answers are numbers near enough to each other."""
    mine, other = _read(first), _read(second)
    return mine is not None and other is not None and _is_near(problem, mine, other)


def _read(found: str) -> Number | None:
    """The last side of a chain, of which every other must have its value to a millionth; a name may stand in front."""
    sides = [bare(side.strip()) for side in bare(found).split("=")]
    if len(sides) > 1 and is_name(sides[0]):
        sides = sides[1:]
    read = [_number(side) for side in sides]
    last = read[-1]
    if last is None or any(each is None or abs(each.value - last.value) > AGREEMENT * abs(last.value) for each in read):
        return None
    return last


def _number(text: str) -> Number | None:
    """A number, or a constant expression with a unit behind it."""
    if read := number(text):
        return read
    core, unit = tail(text) or (text, NONE)
    exact = None if unit is None else value(core)
    return None if exact is None or unit is None else Number(exact, unit)


def _is_near(problem: Problem, expected: Number, given: Number) -> bool:
    tolerance = Fraction(problem.meta.get("tolerance", TOLERANCE))
    moved = given
    if abs(given.value - expected.value) <= tolerance * abs(expected.value) and given.unit.scale in (
        1,
        expected.unit.scale,
    ):
        moved = given._replace(value=expected.value)  # then only the unit decides
    return same_number(expected, moved)
