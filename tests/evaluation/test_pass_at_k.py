"""pass@k against its definition, and the interval of greedy accuracy against simulation."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import combinations
from math import comb

import pytest

from obverse.evaluation.bootstrap import interval
from obverse.evaluation.metrics import pass_at_k


@pytest.mark.parametrize(("n", "c"), [(6, 0), (6, 1), (6, 3), (6, 6), (9, 2)])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(n: int, c: int) -> None:
    flags = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        subsets = list(combinations(flags, k))
        assert pass_at_k(n, c, k) == pytest.approx(float(Fraction(sum(map(any, subsets)), len(subsets))), abs=1e-12)


def test_golden_number_and_large_n() -> None:
    assert pass_at_k(16, 3, 4) == pytest.approx(0.607143, abs=1e-6)
    assert pytest.approx(0.564194, abs=1e-6) == 1 - (1 - 3 / 16) ** 4  # the biased plug-in lies below it
    exact = 1 - Fraction(comb(2048 - 2, 1024), comb(2048, 1024))
    assert pass_at_k(2048, 2, 1024) == pytest.approx(float(exact), rel=1e-12)
    assert pass_at_k(2048, 1500, 1024) == 1.0


def exact(n: int, c: int, k: int) -> Fraction:
    return 1 - Fraction(comb(n - c, k), comb(n, k))


def test_it_equals_the_definition_by_exact_rationals() -> None:
    for n in range(1, 33):
        for c in range(n + 1):
            for k in range(1, n + 1):
                assert pass_at_k(n, c, k) == pytest.approx(float(exact(n, c, k)), rel=1e-12, abs=1e-14), (n, c, k)


@pytest.mark.parametrize("k", [1, 8, 64, 1000, 1024, 2047, 2048])
def test_it_is_stable_for_two_thousand_samples(k: int) -> None:
    for c in (0, 1, 2, 3, 10, 100, 1023, 1024, 1025, 2047, 2048):
        assert pass_at_k(2048, c, k) == pytest.approx(float(exact(2048, c, k)), rel=1e-12, abs=1e-14), c


def test_more_k_than_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="needs at least 9"):
        pass_at_k(8, 1, 9)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = random.Random(1)
    hits, rounds = 0, 200
    for seed in range(rounds):
        values = [float(rng.random() < 0.4) for _ in range(80)]
        low, high = interval(values, seed=seed, num_resamples=400)
        hits += low <= 0.4 <= high
    assert 0.89 <= hits / rounds <= 0.99
