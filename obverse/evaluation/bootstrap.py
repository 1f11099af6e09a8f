"""Confidence intervals for means over problems and over seeds, and for the difference of two means; deterministic.

Mean over problems: bootstrap-t (Efron & Tibshirani 1993, ch. 12.5). Percentiles of resampled means are too narrow for
few problems or many scores at 0 or 1; bootstrap-t resamples (mean - truth) / standard error instead. A resample may
consist of one problem, with a standard error near zero; therefore NUM_PRIOR observations with the variance of the data
are added to the variance of each resample.

Mean over problems and seeds: two or three seeds are too few to resample. Their variance component (two-way analysis of
variance without interaction) is added to that of the problems, and Student's t with Satterthwaite's degrees of freedom
accounts for its uncertainty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_PRIOR = 2
BLOCK = 2_000_000  # numbers that are resampled at a time


@dataclass(frozen=True)
class Difference:
    """The mean of `first - second` with its confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def interval(
    values: Sequence[float],
    seed: int = 0,
    num_resamples: int = 2000,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """Return the confidence interval (low, high) of the mean of `values` [problems], by bootstrap-t.

    Args:
        values: One value per problem.
        seed: Seed of the resampling.
        num_resamples: Number of resamples.
        level: Confidence level.
        bounds: The range of a value, (0, 1) for fractions; it clips the interval. If all values are equal to one bound,
            the other end is that of the Clopper-Pearson interval. Without bounds, equal values, or a single one, give
            an interval of width 0.

    Raises ValueError without values.
    """
    numbers = _checked(values)
    mean, error = float(numbers.mean()), _error(numbers)
    if bounds is not None and (numbers == numbers[0]).all() and numbers[0] in bounds:
        width = (bounds[1] - bounds[0]) * (1 - ((1 - level) / 2) ** (1 / len(numbers)))
        return (mean, mean + width) if numbers[0] == bounds[0] else (mean - width, mean)
    if error == 0:
        return mean, mean
    low, high = np.quantile(_pivots(numbers, seed, num_resamples), [(1 - level) / 2, (1 + level) / 2])
    return _cut(mean - float(high) * error, mean - float(low) * error, bounds)


def nested_interval(
    by_seed: Sequence[Sequence[float]],
    seed: int = 0,
    num_resamples: int = 2000,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """Return the confidence interval of the mean of `by_seed` [seeds][problems], over both seeds and problems.

    With one seed it is `interval` over problems. Raises ValueError for rows of different lengths.
    """
    table = np.stack([_checked(row) for row in by_seed])  # [S, P]
    num_seeds, num_problems = table.shape
    means = table.mean(0)
    low, high = interval(list(means), seed, num_resamples, level, bounds)
    if num_seeds == 1 or num_problems == 1:
        return low, high
    mean = float(table.mean())
    problem_variance = _error(means) ** 2
    seeds = table.mean(1)
    residuals = table - means - seeds[:, None] + mean
    residual_variance = float((residuals**2).sum()) / ((num_seeds - 1) * (num_problems - 1)) / table.size
    variance_of_seed_means = float(seeds.var(ddof=1)) / num_seeds
    seed_variance = max(0.0, variance_of_seed_means - residual_variance)
    total = problem_variance + seed_variance
    if seed_variance == 0 or total == 0:
        return low, high
    freedom = total**2 / (problem_variance**2 / (num_problems - 1) + variance_of_seed_means**2 / (num_seeds - 1))
    quantile = student(level, max(1.0, freedom))
    if problem_variance == 0:
        half_width = quantile * total**0.5
        return _cut(mean - half_width, mean + half_width, bounds)
    factor = (total / problem_variance) ** 0.5 * quantile / student(level, num_problems - 1)
    return _cut(mean - (mean - low) * factor, mean + (high - mean) * factor, bounds)


def paired(
    first: Sequence[float] | Sequence[Sequence[float]],
    second: Sequence[float] | Sequence[Sequence[float]],
    seed: int = 0,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> Difference:
    """Return the mean paired difference of `first` and `second`, both [problems] or both [seeds][problems].

    Raises ValueError for different shapes.

    Example:
        paired([1.0, 0.5], [0.5, 0.0]).mean == 0.5
    """
    first_values, second_values = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first_values.shape != second_values.shape:
        raise ValueError(
            f"a paired difference needs the same problems and seeds: {first_values.shape} against {second_values.shape}"
        )
    table = np.atleast_2d(first_values - second_values)
    low, high = nested_interval(list(table), seed, num_resamples, level)
    return Difference(float(table.mean()), low, high)


@cache
def student(level: float, freedom: float) -> float:
    """Return the two-sided quantile of Student's t: P(|t| < quantile) = `level`; `freedom` is a real number >= 1."""
    angle = np.linspace(0, np.pi / 2, 20_001)  # t = sqrt(freedom) tan(angle) has density cos(angle)^(freedom - 1)
    density = np.cos(angle) ** (freedom - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return float(np.sqrt(freedom) * np.tan(np.interp(level, mass / mass[-1], angle)))


def _pivots(numbers: Floats, seed: int, num_resamples: int) -> Floats:
    """Return (resampled mean - mean) / regularized standard error of the resample; [num_resamples]."""
    rng, num = np.random.default_rng(seed), len(numbers)
    mean, variance = numbers.mean(), numbers.var(ddof=1)
    pivots = []
    size = max(1, BLOCK // num)
    for start in range(0, num_resamples, size):
        resamples = numbers[rng.integers(0, num, (min(size, num_resamples - start), num))]
        spread = ((num - 1) * resamples.var(1, ddof=1) + NUM_PRIOR * variance) / (num - 1 + NUM_PRIOR)
        pivots.append((resamples.mean(1) - mean) / np.sqrt(spread / num))
    return np.concatenate(pivots)


def _checked(values: Sequence[float]) -> Floats:
    numbers = np.asarray(values, dtype=float)
    if numbers.ndim != 1 or not len(numbers):
        raise ValueError("an interval needs a list of one value or more")
    return numbers


def _error(numbers: Floats) -> float:
    """Return the standard error of the mean; exactly 0 if all numbers are equal."""
    if (numbers == numbers[0]).all():
        return 0.0
    return float(numbers.std(ddof=1)) / len(numbers) ** 0.5


def _cut(low: float, high: float, bounds: tuple[float, float] | None) -> tuple[float, float]:
    return (low, high) if bounds is None else (max(low, bounds[0]), min(high, bounds[1]))
