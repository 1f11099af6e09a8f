"""maj@k against the definition, draw by draw."""

from __future__ import annotations

import time
from itertools import combinations
from statistics import fmean

import pytest

from obverse.evaluation import metrics as module
from obverse.evaluation.metrics import cluster_answers, majority
from obverse.types import Problem

PROBLEM = Problem("p", "?", answer="1/2", verifier="math")


def by_hand(answers: list[str | None], right: str, k: int) -> float:
    """The mean over all draws of k; a tie counts by its share of right answers."""
    values = []
    for drawn in combinations(answers, k):
        said = [answer for answer in drawn if answer is not None]
        most = max((said.count(answer) for answer in said), default=0)
        winners = {answer for answer in said if said.count(answer) == most}
        values.append((right in winners) / len(winners) if winners else 0.0)
    return fmean(values)


ANSWERS: list[str | None] = ["3", "7", "3", None, "9", "7", "3", None, "5"]


@pytest.mark.parametrize("right", ["3", "7", "5"])
def test_it_is_the_mean_over_all_draws(right: str) -> None:
    correct = [answer == right for answer in ANSWERS]
    found = majority(PROBLEM, ANSWERS, correct, range(1, 10))
    for k in range(1, 10):
        assert found[k] == pytest.approx(by_hand(ANSWERS, right, k), abs=1e-12), k


def test_draws_come_close_where_there_are_too_many_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EXACT_DRAWS", 0)
    found = majority(PROBLEM, ANSWERS, [answer == "3" for answer in ANSWERS], range(1, 10))
    for k in range(1, 10):
        assert found[k] == pytest.approx(by_hand(ANSWERS, "3", k), abs=0.03), k
    assert found == majority(PROBLEM, ANSWERS, [answer == "3" for answer in ANSWERS], range(1, 10))


def test_answers_in_other_words_are_one_answer() -> None:
    answers = ["0.5", "\\frac{1}{2}", "1/2", "7", "7"]
    sizes, right = cluster_answers(PROBLEM, answers, [True, True, True, False, False])
    assert sorted(zip(sizes, right, strict=True)) == [(2, 0.0), (3, 1.0)]
    assert majority(PROBLEM, answers, [True, True, True, False, False], [5]) == {5: 1.0}
    words = Problem("p", "?", answer="0.5", verifier="exact")  # to which 1/2 is another answer
    assert majority(words, answers, [True, False, False, False, False], [5]) == {5: 0.0}


def test_nobody_answers_and_nobody_is_right() -> None:
    assert majority(PROBLEM, [None, None], [False, False], [1, 2]) == {1: 0.0, 2: 0.0}
    assert majority(PROBLEM, ["3", "3"], [False, False], [2]) == {2: 0.0}
    with pytest.raises(ValueError, match="at least as many samples"):
        majority(PROBLEM, ["3"], [True], [2])


def test_a_thousand_different_answers_take_no_minutes() -> None:
    answers = [str(number) for number in range(1, 1025)]
    began = time.monotonic()
    found = majority(PROBLEM, answers, [answer == "1" for answer in answers], [8, 64, 1024])
    assert time.monotonic() - began < 10
    assert found[1024] == pytest.approx(1 / 1024)
