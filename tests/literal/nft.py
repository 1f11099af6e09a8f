"""2505.18118: -log R for right answers, -log max((1 - r R) / (1 - r), floor) for wrong, straight through the max."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source

OMEGA: dict[int, Callable[[float], float]] = {0: lambda r: 1.0, 1: lambda r: 1 - r, 2: lambda r: ((1 - r) / r) ** 0.5}


def objective(prompt_weight: int, floor: float, neg_weight: float, length: int) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, rows = torch.zeros((), dtype=torch.float64), data.rows(Source.ROLLOUT)
        for row, mask in rows:
            members = data.members(row)
            rate = min(max(sum(bool(data.samples.correct[i]) for i in members) / len(members), 0.02), 0.98)
            log_ratio = data.logp[mask] - data.tokens.behavior[mask]
            if data.samples.correct[row]:
                value = -log_ratio.sum()
            else:
                cut = log_ratio + (log_ratio.clamp(max=10) - log_ratio).detach()
                left = (1 - rate * cut.exp()) / (1 - rate)
                value = -neg_weight * torch.log(left + (left.clamp(min=floor) - left).detach()).sum()
            total = total + OMEGA[prompt_weight](rate) * value / length
        return total / len(rows)

    return literal


CASES = [
    ({}, objective(1, 1.0, 1.0, 1000)),
    ({"prompt_weight": 0, "neg_weight": 0.3}, objective(0, 1.0, 0.3, 1000)),
    ({"prompt_weight": 2, "epsilon": 0.2, "max_completion_length": 64}, objective(2, 0.2, 1.0, 64)),
    ({"neg_weight": 0.0}, objective(1, 1.0, 0.0, 1000)),
]
