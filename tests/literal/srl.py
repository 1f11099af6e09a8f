"""2510.25992: GRPO's clipped surrogate over the tokens of the update, on groups of rewards that differ enough."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(low: float, high: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for row, mask in data.rows(Source.ROLLOUT):
            rewards = data.samples.reward[data.members(row)]
            advantage = (data.samples.reward[row] - rewards.mean()) / (rewards.std() + 1e-6)
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            total = total - torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage).sum()
            num_tokens += int(mask.sum())
        return total / num_tokens

    return literal


CASES = [
    ({}, objective(0.2, 0.2)),
    ({"epsilon": 0.1, "epsilon_high": 0.4, "min_reward_std": 0.1}, objective(0.1, 0.4)),
]
