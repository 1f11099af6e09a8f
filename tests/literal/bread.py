"""2506.17211 as reconstructed: GRPO's clipped surrogate and k3 on the policy's tokens, over samples of one prefix."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(low: float = 0.2, high: float = 0.2, beta: float = 0.0) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, rows = torch.zeros((), dtype=torch.float64), data.rows(Source.ROLLOUT)
        for row, mask in rows:
            rewards = data.samples.reward[data.members(row)]
            advantage = (data.samples.reward[row] - rewards.mean()) / (rewards.std() + 1e-6)
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            value = torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
            if beta:
                gap = data.logp[mask] - data.tokens.anchor[mask]
                value = value - beta * (torch.exp(-gap) + gap - 1)
            total = total - value.mean() / len(rows)
        return total

    return literal


CASES = [
    ({}, objective()),
    ({"num_generations": 4, "max_follow_ups": 1, "epsilon": 0.1, "epsilon_high": 0.3}, objective(0.1, 0.3)),
    ({"beta": 0.04}, objective(beta=0.04)),
]
