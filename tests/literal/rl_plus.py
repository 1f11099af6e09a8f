"""2508.00222: r A on own samples, 2p / ((1 + w) mu + 1 - w) sg((1 - p)^g) A on demonstrations, sums / (L S)."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(
    omega: float = 0.5, gamma: float = 0.5, length: int = 8192, entropy_coef: float = 0.001
) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        rollouts, demonstrations = data.rows(Source.ROLLOUT), data.rows(Source.DEMONSTRATION)
        for row, mask in [*rollouts, *demonstrations]:
            advantage = data.samples.reward[row] - data.samples.reward[data.members(row)].mean()
            probability, start = data.logp[mask].exp(), data.tokens.behavior[mask].exp()
            if data.mask(Source.DEMONSTRATION)[mask].any():
                mixture = (start + omega * start + (1 - omega)) / 2
                gain = probability / mixture * (1 - probability).detach() ** gamma
            else:
                gain = probability / start
            total = total - (gain * advantage).sum() / length / (len(rollouts) + len(demonstrations))
        return total - entropy_coef * data.entropy.mean()

    return literal


CASES = [
    ({}, objective()),
    ({"omega": 0.2, "gamma": 1.0, "max_completion_length": 16, "entropy_coef": 0.0}, objective(0.2, 1.0, 16, 0.0)),
]
