"""2402.03300 eq. 3: per sequence mean of the clipped surrogate minus beta k3, then the mean over sequences."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(low: float, high: float, beta: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, rows = torch.zeros((), dtype=torch.float64), data.rows(Source.ROLLOUT)
        for row, mask in rows:
            rewards = data.samples.reward[data.members(row)]
            advantage = (data.samples.reward[row] - rewards.mean()) / (rewards.std() + 1e-6)
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            surrogate = torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
            gap = data.logp[mask] - data.tokens.anchor[mask]
            k3 = torch.exp(-gap) + gap - 1
            total = total - (surrogate - beta * k3).mean()
        return total / len(rows)

    return literal


CASES = [
    ({}, objective(0.2, 0.2, 0.04)),
    ({"beta": 0.0}, objective(0.2, 0.2, 0.0)),
    ({"beta": 0.3, "epsilon": 0.1, "epsilon_high": 0.28}, objective(0.1, 0.28, 0.3)),
]
