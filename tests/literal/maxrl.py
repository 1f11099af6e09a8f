"""2602.02710: PPO's clipped surrogate, a mean over tokens, with the reward over its group's mean, minus 1."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(low: float, high: float, most: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for row, mask in data.rows(Source.ROLLOUT):
            mean = data.samples.reward[data.members(row)].mean()
            advantage = (data.samples.reward[row] - mean) / (mean + 1e-6)
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            surrogate = torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
            if advantage < 0:
                surrogate = torch.max(surrogate, most * advantage)
            total = total - surrogate.sum()
            num_tokens += int(mask.sum())
        return total / num_tokens

    return literal


CASES = [
    ({}, objective(0.2, 0.2, 3.0)),
    ({"epsilon": 0.1, "epsilon_high": 0.5, "dual_clip": 1.5}, objective(0.1, 0.5, 1.5)),
    ({"dual_clip": None}, objective(0.2, 0.2, float("inf"))),
]
