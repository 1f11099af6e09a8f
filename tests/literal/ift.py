"""2405.11870: losses weighted by the discounted loss that follows, with its gradient (code); by position (eq. 21).

The mixed embeddings belong to the forward pass: here are its log-probs.
"""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def propagated(gamma: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        found = []
        for _, mask in data.rows(Source.DEMONSTRATION):
            losses = -data.logp[mask]
            weights = [
                torch.stack([gamma ** (k - t) * losses[k] for k in range(t, len(losses))]).sum()
                for t in range(len(losses))
            ]
            found.append((losses * torch.stack(weights)).sum() / torch.stack(weights).sum())
        return torch.stack(found).mean()

    return literal


def positional(gamma: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        found = []
        for _, mask in data.rows(Source.DEMONSTRATION):
            losses = -data.logp[mask]
            later = [sum(gamma ** (i - n) * losses[i] for i in range(n, len(losses))) for n in range(len(losses))]
            found.append(torch.stack(later).sum() / len(losses))
        return torch.stack(found).mean()

    return literal


def plain(data: Numbers) -> Tensor:
    return torch.stack([-data.logp[mask].mean() for _, mask in data.rows(Source.DEMONSTRATION)]).mean()


CASES = [
    ({}, propagated(0.95)),
    ({"gamma": 0.5, "greedy_share": 0.0}, propagated(0.5)),
    ({"gamma": 1.0}, propagated(1.0)),
    ({"form": "paper"}, positional(0.95)),
    ({"form": "paper", "gamma": 1.0}, positional(1.0)),
    ({"gamma": 0.0, "greedy_share": 0.0}, plain),
    ({"form": "paper", "gamma": 0.0}, plain),
]
