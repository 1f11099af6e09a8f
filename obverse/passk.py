"""Scores from n samples of which c are correct, and intervals over problems. Exact where a closed form exists."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import fmean


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """The chance that at least one of k samples drawn without replacement is correct: 1 - C(n-c, k) / C(n, k).

    Unbiased for pass@k (Chen et al. 2021, 2107.03374, eq. 1), as a product that is stable for large n. Raises
    ValueError when k > n.
    """
    if k > num_samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, there are {num_samples}")
    missed = 1.0
    for i in range(num_samples - num_correct + 1, num_samples + 1):
        missed *= max(0.0, 1.0 - k / i)
    return 1.0 - missed


def interval(
    values: Sequence[float], seed: int = 0, num_resamples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of the mean over problems (percentile method); the same for the same values and seed."""
    rng = random.Random(seed)
    means = sorted(fmean(rng.choices(values, k=len(values))) for _ in range(num_resamples))
    cut = round((1 - level) / 2 * num_resamples)
    return means[cut], means[-1 - cut]
