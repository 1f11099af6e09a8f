"""2512.17636: R - mean R on own tokens; on demonstrated ones p / trust below the trusted probability, else a log."""

import math
from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(trust: float, entropy_coef: float, length: int = 8192) -> Callable[[Numbers], Tensor]:
    def trusted(logp: Tensor) -> Tensor:
        return logp - math.log(trust) + 1 if float(logp.detach()) > math.log(trust) else logp.exp() / trust

    def literal(data: Numbers) -> Tensor:
        total, num_samples = torch.zeros((), dtype=torch.float64), len(data.samples)
        num_hint = [int(((data.tokens.sample == row) & data.mask(Source.HINT)).sum()) for row in range(num_samples)]
        for row, mask in data.rows(Source.ROLLOUT):
            advantage = data.samples.reward[row] - data.samples.reward[data.members(row)].mean()
            total = total - (torch.exp(data.logp[mask] - data.tokens.behavior[mask]) * advantage).sum()
        for row, mask in data.rows(Source.HINT):
            num_equal = sum(num_hint[member] == num_hint[row] for member in data.members(row))
            for logp in data.logp[mask]:
                total = total - trusted(logp) / num_equal
        for _, mask in data.rows(Source.DEMONSTRATION):
            for logp in data.logp[mask]:
                total = total - trusted(logp)
        return total / length / num_samples - entropy_coef * data.entropy.mean()

    return literal


CASES = [
    ({}, objective(0.1, 0.001)),
    ({"trust": 0.5, "entropy_coef": 0.0, "max_completion_length": 32}, objective(0.5, 0.0, 32)),
]
