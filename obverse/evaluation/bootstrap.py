"""Intervals for means over problems and over seeds, and for the difference of two. The same numbers, the same interval.

A mean over problems: bootstrap-t (Efron & Tibshirani 1993, ch. 12.5). Percentiles of resampled means are too narrow for
few problems or many scores at 0 or 1; resampling (mean - truth) / its standard error mends that. A resample may hold
the same problem only, with a standard error near zero: each one's variance is steadied by NUM_PRIOR observations' worth
of the data's own.

A mean over problems and seeds: two or three seeds are too few to resample, so their share of the variance (two-way
analysis of variance, no interaction) is added to that of the problems, and Student's t with Satterthwaite's degrees of
freedom pays for having estimated it from so few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_PRIOR = 2
BLOCK = 2_000_000  # numbers resampled at a time


@dataclass(frozen=True)
class Difference:
    """The mean of first minus second, with its interval."""

    mean: float
    low: float
    high: float

    @property
    def distinguishable(self) -> bool:
        """The interval excludes 0."""
        return self.low > 0 or self.high < 0


def interval(
    values: Sequence[float],
    seed: int = 0,
    num_resamples: int = 2000,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """The interval (low, high) of the mean of `values` [problems], by bootstrap-t.

    `bounds` are what a value can be, (0, 1) for shares. They cut the interval; and where all values stand at one of
    them, which no resampling can see beyond, the other end is Clopper and Pearson's for the share of problems that do.
    Without bounds equal values, or a single one, give an interval without width. Raises ValueError for no values.
    """
    numbers = _checked(values)
    mean, error = float(numbers.mean()), _error(numbers)
    if bounds is not None and (numbers == numbers[0]).all() and numbers[0] in bounds:
        reach = (bounds[1] - bounds[0]) * (1 - ((1 - level) / 2) ** (1 / len(numbers)))
        return (mean, mean + reach) if numbers[0] == bounds[0] else (mean - reach, mean)
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
    """The interval of the mean of `by_seed` [seeds][problems]: for other seeds and other problems of the same kind.

    With one seed it is `interval` over problems: nothing is known of other seeds then. Raises ValueError for rows of
    different lengths.
    """
    table = np.stack([_checked(row) for row in by_seed])  # [S, P]
    num_seeds, num_problems = table.shape
    means = table.mean(0)
    low, high = interval(list(means), seed, num_resamples, level, bounds)
    if num_seeds == 1 or num_problems == 1:
        return low, high
    mean = float(table.mean())
    among_problems = _error(means) ** 2
    seeds = table.mean(1)
    rest = table - means - seeds[:, None] + mean
    noise = float((rest**2).sum()) / ((num_seeds - 1) * (num_problems - 1)) / table.size
    seen = float(seeds.var(ddof=1)) / num_seeds
    among_seeds = max(0.0, seen - noise)
    total = among_problems + among_seeds
    if among_seeds == 0 or total == 0:
        return low, high
    freedom = total**2 / (among_problems**2 / (num_problems - 1) + seen**2 / (num_seeds - 1))
    quantile = student(level, max(1.0, freedom))
    if among_problems == 0:
        reach = quantile * total**0.5
        return _cut(mean - reach, mean + reach, bounds)
    stretch = (total / among_problems) ** 0.5 * quantile / student(level, num_problems - 1)
    return _cut(mean - (mean - low) * stretch, mean + (high - mean) * stretch, bounds)


def paired(
    first: Sequence[float] | Sequence[Sequence[float]],
    second: Sequence[float] | Sequence[Sequence[float]],
    seed: int = 0,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> Difference:
    """The mean of `first - second`, both [problems] or both [seeds][problems], problem by problem and seed by seed.

    Raises ValueError when they are not of the same shape.

    Example:
        paired([1.0, 0.5], [0.5, 0.0]).mean == 0.5
    """
    one, other = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.shape != other.shape:
        raise ValueError(f"a paired difference needs the same problems and seeds: {one.shape} against {other.shape}")
    table = np.atleast_2d(one - other)
    low, high = nested_interval(list(table), seed, num_resamples, level)
    return Difference(float(table.mean()), low, high)


@cache
def student(level: float, freedom: float) -> float:
    """Student's t: the number that |t| stays below with probability `level`; `freedom` >= 1, fractions too."""
    angle = np.linspace(0, np.pi / 2, 20_001)  # t = sqrt(freedom) tan(angle) has density cos(angle)^(freedom - 1)
    density = np.cos(angle) ** (freedom - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return float(np.sqrt(freedom) * np.tan(np.interp(level, mass / mass[-1], angle)))


def _pivots(numbers: Floats, seed: int, num_resamples: int) -> Floats:
    """(resampled mean - mean) / resampled standard error, steadied; [num_resamples]."""
    rng, num = np.random.default_rng(seed), len(numbers)
    mean, variance = numbers.mean(), numbers.var(ddof=1)
    found = []
    size = max(1, BLOCK // num)
    for start in range(0, num_resamples, size):
        drawn = numbers[rng.integers(0, num, (min(size, num_resamples - start), num))]
        spread = ((num - 1) * drawn.var(1, ddof=1) + NUM_PRIOR * variance) / (num - 1 + NUM_PRIOR)
        found.append((drawn.mean(1) - mean) / np.sqrt(spread / num))
    return np.concatenate(found)


def _checked(values: Sequence[float]) -> Floats:
    numbers = np.asarray(values, dtype=float)
    if numbers.ndim != 1 or not len(numbers):
        raise ValueError("an interval needs a list of one value or more")
    return numbers


def _error(numbers: Floats) -> float:
    """The standard error of the mean; exactly 0 where all numbers are equal."""
    if (numbers == numbers[0]).all():
        return 0.0
    return float(numbers.std(ddof=1)) / len(numbers) ** 0.5


def _cut(low: float, high: float, bounds: tuple[float, float] | None) -> tuple[float, float]:
    return (low, high) if bounds is None else (max(low, bounds[0]), min(high, bounds[1]))
