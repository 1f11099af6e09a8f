"""2405.14734: -log sigmoid of beta times the difference of mean log-probs minus gamma, a mean over pairs."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor
from torch.nn.functional import logsigmoid

from obverse.types import Source

PairLoss = Callable[[Tensor, Tensor], Tensor]


def objective(loss: PairLoss) -> Callable[[Numbers], Tensor]:
    """The mean over pairs of a loss of the log-probs of the chosen and the rejected tokens."""

    def literal(data: Numbers) -> Tensor:
        losses = []
        for better, up in data.rows(Source.CHOSEN):
            for worse, down in data.rows(Source.REJECTED):
                if data.samples.group[better] == data.samples.group[worse]:
                    losses.append(loss(data.logp[up], data.logp[down]))
        return torch.stack(losses).mean()

    return literal


def averaged(beta: float, gamma: float) -> PairLoss:
    return lambda chosen, rejected: -logsigmoid(beta * (chosen.mean() - rejected.mean()) - gamma)


CASES = [
    ({}, objective(averaged(2.0, 1.0))),
    ({"beta": 0.5, "gamma": 0.0}, objective(averaged(0.5, 0.0))),
]
