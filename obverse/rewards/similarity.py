"""Similarity to a reference text: a reward between 0 and 1 for each completion, for steps of a demonstration.

The similarity is difflib's ratio 2M / T: T characters of both texts, M of them in matching blocks (Ratcliff and
Obershelp 1988). Its time grows with the pairs of equal characters, so texts with many of them are compared word by
word,
and texts that would still take long get no reward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher

from obverse.errors import GraderError
from obverse.rewards.answer_extraction import outcome
from obverse.types import GradeResult, Problem

MAX_PAIRS = 100_000  # of equal characters or words: below a second whatever the texts
NO_STEP = -1.0  # reward of a completion without a text behind its reasoning


def gold(problem: Problem) -> str:
    """Return the reference text. Errors: GraderError if it is no text, or blank."""
    if not isinstance(problem.answer, str):
        raise GraderError(f"the similarity verifier needs text, not {type(problem.answer).__name__}")
    if not problem.answer.strip():
        raise GraderError("empty")
    return problem.answer.strip()


def extract(problem: Problem, text: str) -> str | None:
    """Return everything after the reasoning."""
    return outcome(text).strip() or None


def same_answer(problem: Problem, first: str, second: str) -> bool:
    """Return whether two texts are identical apart from surrounding spaces."""
    return first.strip() == second.strip()


def example(problem: Problem) -> str:
    """Return a completion that is the reference text."""
    return gold(problem)


def verify(problem: Problem, text: str) -> GradeResult:
    """Grade a completion: the reward is its similarity to the reference, without the reasoning; correct if they are
    equal.

    A completion with nothing behind its reasoning has the reward -1.

    Example:
        verify(Problem("p", "2+2=", answer="2+2=4;"), "2+2=5;").reward  # 0.83...
    """
    expected, step = gold(problem), outcome(text).strip()
    if not step:
        return GradeResult(False, NO_STEP, "no text behind the reasoning", formatted=False)
    if step == expected:
        return GradeResult.passed()
    ratio = similarity(expected, step)
    if ratio is None:
        return GradeResult(False, 0.0, "prefilter: the text is too long or too repetitive to compare")
    return GradeResult(False, ratio, f"similarity {ratio:.3f}")


def similarity(first: str, second: str) -> float | None:
    """Return 2M / T of the characters, of the words where that would take long, and None where that would too."""
    for left, right in ((first, second), (first.split(), second.split())):
        if num_equal_pairs(left, right) <= MAX_PAIRS:
            return SequenceMatcher(None, left, right, autojunk=False).ratio()
    return None


def num_equal_pairs(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the number of pairs of equal items: the work of one search for the longest match."""
    counts = Counter(second)
    return sum(number * counts[item] for item, number in Counter(first).items())
