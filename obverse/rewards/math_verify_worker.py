"""Computer algebra on text that a model wrote, by math-verify. Only worker processes import this.

Answers are taken apart as in the process that asks (`obverse.rewards.answer_equality`), and their formulas compared by
value (`obverse.rewards.formula_equality`).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from sympy.core.random import seed

from obverse.rewards import formula_equality as formulas
from obverse.rewards.answer_equality import equal
from obverse.rewards.composite_answers import assignments, collection
from obverse.rewards.notations import notation
from obverse.rewards.number_parsing import bare, number
from obverse.rewards.prefilter import objection
from obverse.rewards.real_sets import region
from obverse.rewards.units import tail
from obverse.rewards.word_answers import letter, letters, same_points, words

# One pair of each sort, read before any worker is forked: the grammar's tables and sympy's modules are then there.
_SAMPLES = (
    ("(x+1)^2", "x^2+2x+1"),
    ("\\frac{\\sqrt{3}}{3}", "\\frac{1}{\\sqrt{3}}"),
    ("2\\pi", "\\frac{4\\pi}{2}"),
    ("\\{1,2,3\\}", "3,2,1"),
    ("(0,1]\\cup[2,\\infty)", "(0,1]\\cup(2,\\infty)"),
    ("(1,2,3)", "(1,2,4)"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\3\\end{pmatrix}"),
    ("y=2x+1", "y-2x=1"),
    ("x<3", "3>x"),
    ("5!", "120"),
    ("\\sin(x)^2+\\cos(x)^2", "1"),
    ("\\log_2 8", "3"),
    ("e^{i\\pi}", "-1"),
    ("3+4i", "4i+3"),
    ("\\text{Monday}", "\\text{Tuesday}"),
    ("1\\pm\\sqrt{2}", "1-\\sqrt{2},1+\\sqrt{2}"),
    ("|x-1|", "|1-x|"),
    ("x \\in [1,2]", "[1,2]"),
    ("x=\\ln 5", "e^x=5"),
    ("xy=6", "x=\\frac{6}{y}"),
    ("\\sin 30^\\circ", "\\frac{1}{2}"),
)

# What the libraries raise where a formula has no meaning, such as an undefined function that is compared.
FAILURES = (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, NotImplementedError, AssertionError)

logging.disable(logging.CRITICAL)  # it logs whole answers


class EventLimit:
    """Counts calls and returns of Python and C functions, for `sys.setprofile`; raises TooManyCalls after `most`."""

    def __init__(self, most: int) -> None:
        left = most

        def count(_frame: Any, _event: str, _argument: Any) -> None:  # a closure: twice as fast as a method
            nonlocal left
            left -= 1
            if left < 0:
                raise TooManyCalls

        def rest() -> int:
            return left

        self.count, self.left = count, rest


class TooManyCalls(BaseException):
    """Passes through the `except Exception` of the libraries."""


def handle(task: tuple[Sequence[tuple[str, str]], int | None]) -> list[Any]:
    """Return [whether both formulas of every question are equal, "" or why that cannot be known]; all are LaTeX.

    A task is questions, each an expected and a given formula, and how many calls and returns they may need, or None.
    The reasons: `gold` (an expected formula cannot be read), `unparseable` (a given one cannot), `too_hard`.
    """
    questions, most = task
    seed(0)  # where sympy tries random points, every process tries the same
    limit = EventLimit(most) if most is not None else None
    try:
        sys.setprofile(limit.count if limit is not None else None)
        try:
            answer = _all(questions)
        finally:
            sys.setprofile(None)  # a call too, which may be the one too many
    except TooManyCalls:
        return [False, "too_hard"]
    if limit is not None and limit.left() < 0:  # the exception was caught on its way
        return [False, "too_hard"]
    return answer


def _all(questions: Sequence[tuple[str, str]]) -> list[Any]:
    """The first answer that is no yes."""
    for expected, given in questions:
        answer = _equal(expected, given)
        if answer != [True, ""]:
            return answer
    return [True, ""]


def _equal(expected: str, given: str) -> list[Any]:
    try:
        if expected == given:  # whether it can be read at all
            return [_is_readable(expected), ""]
        return [bool(equal(expected, given, _same)), ""]
    except formulas.Unreadable as error:
        return [False, str(error)]
    except MemoryError:
        return [False, "too_hard"]
    except (RecursionError, *FAILURES):
        return [False, "unparseable"]


def _is_readable(text: str) -> bool:
    """Whether an answer is of a kind that `compare` knows, or consists of formulas that can be read."""
    if number(text) or notation(text) or words(text) or letter(text) or letters(text) or same_points(text, text):
        return True
    if listed := collection(text):
        return all(_is_readable(bare(member)) for member in listed.members)
    if said := region(text):
        return all(_is_readable(bare(end)) for each in said.intervals for end in each[:2])
    if pairs := assignments(text):
        return all(_is_readable(bare(value)) for _, value in pairs)
    return formulas.read((tail(text) or (text, None))[0]) is not None


def _same(expected: str, given: str) -> bool:
    return objection(expected, given) is None and formulas.same(expected, given)


for _pair in _SAMPLES:
    handle(([_pair], None))
