"""2502.18679 as its code has it: the demonstration up, own samples down by e^(d - u), u an average per problem."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(gamma: float, tau: float, averaged: bool) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        losses = []
        own = dict(data.rows(Source.ROLLOUT))
        for row, mask in data.rows(Source.DEMONSTRATION):
            negatives = [own[member] for member in data.members(row) if member in own]
            likelihood = [data.logp[each].mean() if averaged else data.logp[each].sum() for each in negatives]
            anchors = [0.0 if averaged else data.tokens.anchor[each].sum() for each in negatives]
            scores = torch.stack([up / tau - down for up, down in zip(likelihood, anchors, strict=True)]).detach()
            known = data.samples.memory[row]
            partition = torch.log((1 - gamma) * torch.exp(known) + gamma * torch.exp(scores).mean())
            pushed = (torch.exp(scores - partition) * torch.stack(likelihood)).mean()
            losses.append(pushed - (data.logp[mask].mean() if averaged else data.logp[mask].sum()))
        return torch.stack(losses).mean()

    return literal


CASES = [
    ({}, objective(0.85, 1.0, averaged=False)),
    ({"gamma": 1.0}, objective(1.0, 1.0, averaged=False)),
    ({"gamma": 0.3, "tau": 2.0}, objective(0.3, 2.0, averaged=False)),
    ({"variant": "dft2"}, objective(0.9, 0.3, averaged=True)),
    ({"variant": "dft2", "gamma": 0.5, "tau": 1.0}, objective(0.5, 1.0, averaged=True)),
]
