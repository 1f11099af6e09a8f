"""2503.20783: the clipped surrogate's sum over a constant, then the mean over sequences; A = R - mean R."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(low: float, high: float, length: int) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, rows = torch.zeros((), dtype=torch.float64), data.rows(Source.ROLLOUT)
        for row, mask in rows:
            advantage = data.samples.reward[row] - data.samples.reward[data.members(row)].mean()
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            total = total - torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage).sum() / length
        return total / len(rows)

    return literal


CASES = [
    ({}, objective(0.2, 0.2, 3000)),
    ({"max_completion_length": 64, "epsilon": 0.1, "epsilon_high": 0.28}, objective(0.1, 0.28, 64)),
]
