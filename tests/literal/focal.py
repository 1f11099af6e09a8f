"""1708.02002 eq. 4 on demonstration tokens: the mean of -(1 - p)^gamma log p."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(gamma: float, detached: bool) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for _, mask in data.rows(Source.DEMONSTRATION):
            logp = data.logp[mask]
            factor = (1 - torch.exp(logp)) ** gamma
            total = total - ((factor.detach() if detached else factor) * logp).sum()
            num_tokens += len(logp)
        return total / num_tokens

    return literal


CASES = [
    ({}, objective(2.0, detached=False)),
    ({"detached": True}, objective(2.0, detached=True)),
    ({"gamma": 0.5}, objective(0.5, detached=False)),
    ({"gamma": 0.0}, objective(0.0, detached=False)),
]
