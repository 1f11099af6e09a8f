"""2510.02245: r A on fresh samples, x / (x + g) A on replayed ones with x against the recorded policy; sums / (L S)."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(gamma: float = 0.1, length: int = 8192, entropy_coef: float = 0.001) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        fresh, replayed = data.rows(Source.ROLLOUT), data.rows(Source.REPLAYED)
        for row, mask in [*fresh, *replayed]:
            advantage = data.samples.reward[row] - data.samples.reward[data.members(row)].mean()
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            if data.mask(Source.REPLAYED)[mask].any():
                ratio = ratio / (ratio + gamma)
            total = total - (ratio * advantage).sum() / length / (len(fresh) + len(replayed))
        return total - entropy_coef * data.entropy.mean()

    return literal


CASES = [
    ({}, objective()),
    ({"gamma": 0.7, "max_completion_length": 16, "entropy_coef": 0.0}, objective(0.7, 16, 0.0)),
]
