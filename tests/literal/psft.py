"""2508.17784: min(r, clip(r)) on demonstrated tokens, r against the policy before the step; a mean over all tokens."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(low: float, high: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for _, mask in data.rows(Source.DEMONSTRATION):
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            total = total - torch.min(ratio, ratio.clamp(1 - low, 1 + high)).sum()
            num_tokens += len(ratio)
        return total / num_tokens

    return literal


CASES = [
    ({}, objective(0.2, 0.28)),
    ({"epsilon": 0.1, "epsilon_high": None}, objective(0.1, 0.1)),
    ({"epsilon": 0.9, "epsilon_high": 0.05}, objective(0.9, 0.05)),
]
