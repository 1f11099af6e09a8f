"""2506.13585: the log-likelihood times a detached, truncated importance weight and the advantage; token mean."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(cap: float, floor: float | None = None) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for row, mask in data.rows(Source.ROLLOUT):
            rewards = data.samples.reward[data.members(row)]
            advantage = (data.samples.reward[row] - rewards.mean()) / (rewards.std() + 1e-6)
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            total = total - (ratio.clamp(min=floor, max=cap).detach() * advantage * data.logp[mask]).sum()
            num_tokens += int(mask.sum())
        return total / num_tokens

    return literal


CASES = [
    ({}, objective(5.0)),
    ({"epsilon_high": 0.2}, objective(1.2)),
    ({"epsilon": 0.2, "epsilon_high": 0.28}, objective(1.28, 0.8)),
    ({"epsilon": 10.0, "epsilon_high": 0.2}, objective(1.2)),
]
