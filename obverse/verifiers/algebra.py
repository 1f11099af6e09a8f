"""Computer algebra on text that a model wrote, by math-verify. Only worker processes import this.

A formula goes through math-verify's LaTeX grammar and nothing else (its plain-expression reader, which Python's parser
stands behind, is never used); a `True` of it is believed only after the guards below.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy.core.random import seed
from sympy.core.relational import Relational

from obverse.verifiers.numbers import UNIT

DIGITS = 50
EXACT = sympy.Float("1e-40", DIGITS)
ROUNDED = sympy.Float("1e-5", DIGITS)

# Units are removed here: math-verify's own way takes variables for units (6m, c/2).
_READER = [
    LatexExtractionConfig(
        boxed_match_priority=0,
        try_extract_without_anchor=False,
        normalization_config=NormalizationConfig(malformed_operators=True, nits=True, boxed="last"),
    )
]
_FUNCTION = re.compile(
    r"(?<![\\A-Za-z])(sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln|exp|pi)(?![A-Za-z])"
)
_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\s*(?:\(([^()]*)\)|\{([^{}]*)\})")

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
)

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

        self.count = count
        self.left = lambda: left


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
        sys.setprofile(limit and limit.count)
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
        gold = _read(expected)
        if gold is None:
            return [False, "gold"]
        answer = gold if given == expected else _read(given)
        if answer is None:
            return [False, "unparseable"]
        return [bool(verify(gold, answer, timeout_seconds=None) and agree(gold, answer)), ""]
    except MemoryError:
        return [False, "too_hard"]
    except RecursionError:
        return [False, "unparseable"]


@lru_cache(maxsize=4096)
def _read(text: str) -> Any:
    """The formula as sympy has it, None if it cannot be read."""
    text = _ROOT.sub(lambda match: f"\\sqrt{{{match[1] or match[2]}}}", text)
    text = _FUNCTION.sub(r"\\\1 ", UNIT.sub("", text))
    found = parse(f"\\boxed{{{text}}}", _READER, fallback_mode="no_fallback", parsing_timeout=None)
    return next((each for each in found if not isinstance(each, str)), None)


def agree(gold: Any, answer: Any) -> bool:
    """Whether nothing speaks against two formulas being equal that math-verify found equal.

    Numbers must agree exactly, or to a relative 1e-5 where a decimal is involved; so must the members of a list, set
    or interval, the entries of a matrix, and two formulas at a point; an equation between numbers must be true.
    """
    if isinstance(answer, Relational) and not answer.free_symbols and not _is_true(answer):
        return False
    if isinstance(gold, Relational) != isinstance(answer, Relational):
        gold, answer = _value(gold), _value(answer)
    if isinstance(gold, sympy.MatrixBase) and isinstance(answer, sympy.MatrixBase):
        return gold.shape == answer.shape and all(map(agree, gold.flat(), answer.flat()))
    if isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr):
        return _close(gold, answer)
    mine, others = list(getattr(gold, "args", ())), list(getattr(answer, "args", ()))
    if mine and len(mine) == len(others) and all(_is_number(each) for each in [*mine, *others]):
        if isinstance(gold, sympy.Set) and not isinstance(gold, sympy.Interval):
            mine, others = sorted(mine, key=_sort_key), sorted(others, key=_sort_key)
        return all(map(_close, mine, others))
    return True


def _close(gold: Any, answer: Any) -> bool:
    """Two expressions compared as numbers, with free symbols at one point; True if they have no finite value there."""
    names = sorted(gold.free_symbols | answer.free_symbols, key=str)
    point = {name: sympy.Rational(2 * index + 3, index + 7) for index, name in enumerate(names)}
    first, second = (sympy.N(each.subs(point), DIGITS) for each in (gold, answer))
    if not (first.is_number and second.is_number and first.is_finite and second.is_finite):
        return not (_is_number(gold) and _is_number(answer)) or gold == answer
    tolerance = ROUNDED if gold.has(sympy.Float) or answer.has(sympy.Float) else EXACT
    return bool(abs(first - second) <= tolerance * max(abs(first), abs(second)))


def _is_true(relation: Relational) -> bool:
    if isinstance(relation, sympy.Eq):
        return _is_number(relation.lhs) and _is_number(relation.rhs) and _close(relation.lhs, relation.rhs)
    return bool(relation.doit() == sympy.true)


def _value(formula: Any) -> Any:
    return formula.rhs if isinstance(formula, sympy.Eq) else formula


def _is_number(formula: Any) -> bool:
    return isinstance(formula, sympy.Expr) and not formula.free_symbols


def _sort_key(value: Any) -> tuple[float, float]:
    number = complex(value)
    return number.real, number.imag


for _pair in _SAMPLES:
    handle(([_pair], None))
