"""2507.12856, authors' code: NLL times a clipped ratio to the initial model, without gradient; over all tokens."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(level: str, tau: float, low: float, high: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for _, mask in data.rows(Source.DEMONSTRATION):
            logp = data.logp[mask]
            gap = (logp - data.tokens.anchor[mask]).detach()
            ratio = torch.exp(tau * gap.mean()) if level == "sequence" else torch.exp(gap)
            total = total - (ratio.clamp(low, high) * logp).sum()
            num_tokens += len(logp)
        return total / num_tokens

    return literal


CASES = [
    ({}, objective("sequence", 1.0, 0.0, 16.0)),
    ({"tau": 2.0, "clip_low": 0.5, "clip_high": 1.5}, objective("sequence", 2.0, 0.5, 1.5)),
    ({"level": "token"}, objective("token", 1.0, 0.2, 1.8)),
    ({"level": "token", "clip_high": 1.1}, objective("token", 1.0, 0.2, 1.1)),
]
