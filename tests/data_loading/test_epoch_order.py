"""The stream of problems: every problem once an epoch, another order each time, any place without walking there."""

from __future__ import annotations

from obverse.data.epoch_order import take
from obverse.types import Problem

PROBLEMS = [Problem(str(i), f"prompt {i}") for i in range(10)]


def ids(cursor: int, num: int, seed: int = 1) -> list[str]:
    return [problem.id for problem in take(PROBLEMS, seed, cursor, num)]


def test_an_epoch_shows_every_problem_once_in_a_new_order() -> None:
    first, second = ids(0, 10), ids(10, 10)
    assert sorted(first) == sorted(second) == sorted(problem.id for problem in PROBLEMS)
    assert first != second


def test_any_place_is_reached_without_walking_and_over_the_end_of_an_epoch() -> None:
    assert ids(0, 25) == ids(0, 7) + ids(7, 11) + ids(18, 7)


def test_the_seed_decides() -> None:
    assert ids(0, 10) == ids(0, 10) != ids(0, 10, seed=2)
