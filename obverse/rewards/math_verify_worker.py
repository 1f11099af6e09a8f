"""Computer algebra on completions of a model, by math-verify. Only worker processes import this module.

Answers are taken apart as in the main process (`obverse.rewards.answer_equality`), and their formulas are compared by
value (`obverse.rewards.formula_equality`).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from sympy.core.random import seed

from obverse.rewards.answer_equality import equal_answers
from obverse.rewards.composite_answers import assignments, collection
from obverse.rewards.formula_equality import UnparseableError, equal_formulas, parse_formula
from obverse.rewards.notations import notation
from obverse.rewards.number_parsing import bare, number
from obverse.rewards.prefilter import rejection_code
from obverse.rewards.real_sets import region
from obverse.rewards.units import split_unit
from obverse.rewards.word_answers import letter, letters, same_points, words

# One pair of each kind, compared before any worker is forked, so that the grammar's tables and sympy's modules exist.
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

# Raised by the libraries for formulas without a meaning, such as a comparison of undefined functions.
FAILURES = (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, NotImplementedError, AssertionError)

logging.disable(logging.CRITICAL)  # math-verify logs whole answers


class CallCounter:
    """Counts calls and returns of Python and C functions for `sys.setprofile`; raises TooManyCalls after a limit."""

    def __init__(self, max_events: int) -> None:
        remaining = max_events

        def count(_frame: Any, _event: str, _argument: Any) -> None:  # a closure: twice as fast as a method
            nonlocal remaining
            remaining -= 1
            if remaining < 0:
                raise TooManyCalls

        def num_left() -> int:
            return remaining

        self.count, self.num_left = count, num_left


class TooManyCalls(BaseException):
    """More calls than allowed; a BaseException, so that `except Exception` in the libraries does not catch it."""


def handle(task: tuple[Sequence[tuple[str, str]], int | None]) -> list[Any]:
    """Return [whether the formulas of every pair are equal, "" or the reason why that is unknown].

    Args:
        task: (pairs, max_calls): pairs of an expected and a given formula in LaTeX, and the largest number of calls and
            returns, or None for no limit.

    Reasons: `gold` (an expected formula cannot be parsed), `unparseable` (a given one cannot), `too_hard`.
    """
    pairs, max_calls = task
    seed(0)  # sympy's random test points are the same in every process
    counter = CallCounter(max_calls) if max_calls is not None else None
    try:
        sys.setprofile(counter.count if counter is not None else None)
        try:
            answer = _compare_all(pairs)
        finally:
            sys.setprofile(None)  # this call counts too and may exceed the limit
    except TooManyCalls:
        return [False, "too_hard"]
    if counter is not None and counter.num_left() < 0:  # a library caught the exception
        return [False, "too_hard"]
    return answer


def _compare_all(pairs: Sequence[tuple[str, str]]) -> list[Any]:
    """Return the answer for the first pair that is not equal."""
    for expected, candidate in pairs:
        answer = _compare(expected, candidate)
        if answer != [True, ""]:
            return answer
    return [True, ""]


def _compare(expected: str, candidate: str) -> list[Any]:
    try:
        if expected == candidate:  # a check of whether it can be parsed
            return [_is_parseable(expected), ""]
        return [bool(equal_answers(expected, candidate, _equal_formulas)), ""]
    except UnparseableError as error:
        return [False, str(error)]
    except MemoryError:
        return [False, "too_hard"]
    except (RecursionError, *FAILURES):
        return [False, "unparseable"]


def _is_parseable(text: str) -> bool:
    """Return whether an answer is of a kind that needs no algebra, or consists of formulas that can be parsed."""
    if number(text) or notation(text) or words(text) or letter(text) or letters(text) or same_points(text, text):
        return True
    if parts := collection(text):
        return all(_is_parseable(bare(member)) for member in parts.members)
    if reals := region(text):
        return all(_is_parseable(bare(end)) for interval in reals.intervals for end in interval[:2])
    if assigned := assignments(text):
        return all(_is_parseable(bare(value)) for _, value in assigned)
    return parse_formula((split_unit(text) or (text, None))[0]) is not None


def _equal_formulas(expected: str, candidate: str) -> bool:
    return rejection_code(expected, candidate) is None and equal_formulas(expected, candidate)


for _pair in _SAMPLES:
    handle(([_pair], None))
