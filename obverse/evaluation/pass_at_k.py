"""Scores from n samples of which c are correct. Exact where a closed form exists."""

from __future__ import annotations

from obverse.evaluation.bootstrap import interval

__all__ = ["interval", "pass_at_k"]


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
