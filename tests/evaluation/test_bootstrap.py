"""Intervals: what they are for known numbers, that they repeat, and that they cover the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from obverse.evaluation.bootstrap import interval, nested_interval, paired, student
from obverse.evaluation.metrics import pass_at_k

WITHIN = 0.015  # of 95 %


def test_an_interval_is_the_same_again_and_another_with_another_seed() -> None:
    values = [0.0, 0.25, 1.0, 0.5, 0.125]
    assert interval(values) == interval(values)
    assert interval(values) != interval(values, seed=1)
    low, high = interval(values)
    assert low < 0.375 < high


def test_blocks_of_resamples_do_not_matter_to_where_an_interval_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    values = list(np.random.default_rng(0).random(50))
    whole = interval(values)
    monkeypatch.setattr("obverse.evaluation.bootstrap.BLOCK", 500)
    assert interval(values) == pytest.approx(whole, abs=0.01)


@pytest.mark.parametrize(("freedom", "expected"), [(1, 12.7062), (2, 4.30265), (29, 2.04523), (1000, 1.96234)])
def test_students_t_is_that_of_the_tables(freedom: float, expected: float) -> None:
    assert student(0.95, freedom) == pytest.approx(expected, rel=1e-5)


def test_nothing_is_known_beyond_equal_values_unless_they_are_shares() -> None:
    assert interval([0.5] * 9) == (0.5, 0.5) == interval([0.5] * 9, bounds=(0, 1))
    assert interval([0.0] * 30) == (0.0, 0.0)
    # Clopper and Pearson for 0 of 30 and 30 of 30
    assert interval([0.0] * 30, bounds=(0, 1)) == (0.0, pytest.approx(0.11570, abs=1e-5))
    assert interval([1.0] * 30, bounds=(0, 1)) == (pytest.approx(0.88430, abs=1e-5), 1.0)


def test_bounds_cut() -> None:
    values = [0.0] * 9 + [1.0]
    assert interval(values)[0] < 0 == interval(values, bounds=(0, 1))[0]


def test_what_is_no_list_of_numbers_is_refused() -> None:
    for values in ([], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="one value"):
            interval(values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same problems and seeds"):
        paired([1.0], [1.0, 2.0])


def test_one_seed_is_an_interval_over_problems_and_seeds_that_differ_widen_it() -> None:
    row = [0.0, 0.25, 1.0, 0.5, 0.125, 0.75]
    assert nested_interval([row]) == interval(row) == nested_interval([row, row, row])
    moved = [[value + step for value in row] for step in (-0.2, 0.0, 0.2)]
    low, high = nested_interval(moved)
    assert low < interval(row)[0] and high > interval(row)[1]
    # equal problems: only the seeds vary, and Student's t says how little three of them are
    low, high = nested_interval([[step] * 8 for step in (0.4, 0.5, 0.6)])
    assert (high - low) / 2 == pytest.approx(4.30265 * 0.1 / 3**0.5)


def test_a_paired_difference_is_that_of_the_problems() -> None:
    second = [0.0, 0.25, 1.0, 0.5, 0.125]
    first = [value + 0.125 for value in second]
    found = paired(first, second)
    assert (found.mean, found.low, found.high) == (0.125, 0.125, 0.125) and found.distinguishable
    assert not paired(first, first).distinguishable
    assert paired(second, first).high < 0 and paired(second, first).distinguishable
    assert paired([first, first], [second, second]) == found
    noise = list(np.random.default_rng(1).normal(size=40))
    assert not paired(noise, [0.0] * 40).distinguishable


@pytest.mark.parametrize("times", [600, pytest.param(3000, marks=pytest.mark.slow)])
def test_intervals_cover_the_truth_of_avg_and_of_pass_at_k(times: int) -> None:
    rng = np.random.default_rng(0)
    num_samples, num_problems = 32, 100
    chances = rng.beta(0.5, 1.5, 200_000)  # many problems never solved, some always
    table = {k: np.array([pass_at_k(num_samples, c, k) for c in range(num_samples + 1)]) for k in (1, 8)}
    truth = {k: (1 - (1 - chances) ** k).mean() for k in (1, 8)}
    covered = dict.fromkeys(truth, 0)
    for _ in range(times):
        correct = rng.binomial(num_samples, rng.beta(0.5, 1.5, num_problems))
        for k in truth:
            low, high = interval(table[k][correct], num_resamples=600, bounds=(0, 1))
            covered[k] += low <= truth[k] <= high
    for k in truth:
        assert covered[k] / times == pytest.approx(0.95, abs=WITHIN), k


@pytest.mark.parametrize("times", [400, pytest.param(1000, marks=pytest.mark.slow)])
def test_intervals_of_few_problems_that_are_mostly_failed_are_wide_enough(times: int) -> None:
    rng = np.random.default_rng(0)
    covered, narrow, truth = 0, 0, 0.1 / 2.1
    for _ in range(times):
        values = rng.binomial(32, rng.beta(0.1, 2, 30)) / 32
        low, high = interval(values, num_resamples=600, bounds=(0, 1))
        covered += low <= truth <= high
        low, high = np.quantile(rng.choice(values, (600, 30)).mean(1), [0.025, 0.975])
        narrow += low <= truth <= high
    assert covered / times > 0.92 and narrow / times < 0.88  # the second is what percentiles give


@pytest.mark.parametrize("times", [300, pytest.param(800, marks=pytest.mark.slow)])
def test_intervals_over_seeds_and_problems_cover_the_truth(times: int) -> None:
    rng = np.random.default_rng(0)
    covered, alone = 0, 0
    for _ in range(times):
        table = 0.5 + 0.05 * rng.normal(size=(3, 1)) + 0.3 * rng.normal(size=60) + 0.15 * rng.normal(size=(3, 60))
        low, high = nested_interval(table, num_resamples=600)  # type: ignore[arg-type]
        covered += low <= 0.5 <= high
        low, high = interval(table.mean(0), num_resamples=600)  # type: ignore[arg-type]
        alone += low <= 0.5 <= high
    assert covered / times == pytest.approx(0.95, abs=WITHIN + 0.01)  # 0.008 is the error of so few simulations
    assert alone / times < 0.92  # which is why seeds must not be left out
