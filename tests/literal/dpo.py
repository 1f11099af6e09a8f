"""2305.18290 eq. 7 with the divergences of 2309.16240, label smoothing and IPO: a loop over a problem's pairs."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor
from torch.nn.functional import logsigmoid

from obverse.types import Source

Loss = Callable[[Tensor, Tensor, int, int], Tensor]
Score = Callable[[Tensor], Tensor]


def objective(loss: Loss, own: bool = False) -> Callable[[Numbers], Tensor]:
    """The mean over pairs of loss(L of the chosen, L of the rejected, their lengths)."""

    def literal(data: Numbers) -> Tensor:
        if own:
            wrote = data.rows(Source.ROLLOUT)
            chosen = [each for each in wrote if data.update.rows[each[0]].grade.correct]
            rejected = [each for each in wrote if not data.update.rows[each[0]].grade.correct]
        else:
            chosen, rejected = data.rows(Source.CHOSEN), data.rows(Source.REJECTED)
        losses = []
        for better, up in chosen:
            for worse, down in rejected:
                if data.samples.group[better] == data.samples.group[worse]:
                    pair = [(data.logp[mask] - data.tokens.anchor[mask]).sum() for mask in (up, down)]
                    losses.append(loss(*pair, int(up.sum()), int(down.sum())))
        return sum(losses, start=torch.zeros((), dtype=torch.float64)) / len(losses)

    return literal


def logistic(beta: float, score: Score = lambda ratio: ratio, smoothing: float = 0.0) -> Loss:
    def loss(better: Tensor, worse: Tensor, num_better: int, num_worse: int) -> Tensor:
        margin = beta * (score(better) - score(worse))
        return -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)

    return loss


def squared(beta: float, score: Score = lambda ratio: ratio) -> Loss:
    def loss(better: Tensor, worse: Tensor, num_better: int, num_worse: int) -> Tensor:
        return (score(better) / num_better - score(worse) / num_worse - 1 / (2 * beta)) ** 2

    return loss


def forward_kl(ratio: Tensor) -> Tensor:
    return 1 - torch.exp(-ratio)


def jensen_shannon(ratio: Tensor) -> Tensor:
    return torch.log(2 * torch.exp(ratio) / (1 + torch.exp(ratio)))


def alpha_half(ratio: Tensor) -> Tensor:
    return (torch.exp(-0.5 * ratio) - 1) / -0.5


CASES = [
    ({}, objective(logistic(0.1))),
    ({"beta": 0.5, "label_smoothing": 0.2}, objective(logistic(0.5, smoothing=0.2))),
    ({"divergence": "forward_kl"}, objective(logistic(0.1, forward_kl))),
    ({"divergence": "js", "beta": 2.0}, objective(logistic(2.0, jensen_shannon))),
    ({"divergence": "alpha", "beta": 0.3}, objective(logistic(0.3, alpha_half))),
    ({"divergence": "alpha", "alpha": 1.5}, objective(logistic(0.1, lambda ratio: (torch.exp(ratio / 2) - 1) * 2))),
    ({"loss": "ipo", "beta": 0.25}, objective(squared(0.25))),
    ({"loss": "ipo", "divergence": "js"}, objective(squared(0.1, jensen_shannon))),
    ({"pairs": "own"}, objective(logistic(0.1), own=True)),
    ({"pairs": "own", "loss": "ipo"}, objective(squared(0.1), own=True)),
    (
        {"pairs": "own", "beta": 1.0, "divergence": "js", "label_smoothing": 0.1},
        objective(logistic(1.0, jensen_shannon, 0.1), own=True),
    ),
]
