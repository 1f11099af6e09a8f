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


def separate(loss: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """A loss of the scores of the chosen and of the rejected response."""
    return lambda better, worse, num_better, num_worse: loss(better, worse)


def exo(smoothing: float, beta: float = 0.1) -> Loss:
    def loss(better: Tensor, worse: Tensor) -> Tensor:
        q = torch.sigmoid(beta * (better - worse))
        return q * (q / (1 - smoothing)).log() + (1 - q) * ((1 - q) / smoothing).log()

    return separate(loss)


def nca(better: Tensor, worse: Tensor) -> Tensor:
    return -logsigmoid(0.1 * better) - logsigmoid(-0.1 * better) / 2 - logsigmoid(-0.1 * worse) / 2


def robust(better: Tensor, worse: Tensor) -> Tensor:
    margin = 0.1 * (better - worse)
    return (-0.9 * logsigmoid(margin) + 0.1 * logsigmoid(-margin)) / 0.8


def bco(better: Tensor, worse: Tensor) -> Tensor:
    return -logsigmoid(0.1 * better) - logsigmoid(-0.1 * worse)


def sppo(better: Tensor, worse: Tensor) -> Tensor:
    return (better - 0.5 / 0.1) ** 2 + (worse + 0.5 / 0.1) ** 2


def apo_zero(better: Tensor, worse: Tensor, beta: float = 0.1) -> Tensor:
    return 1 - torch.sigmoid(beta * better) + torch.sigmoid(beta * worse)


def apo_down(better: Tensor, worse: Tensor, beta: float = 0.1) -> Tensor:
    return torch.sigmoid(beta * better) + 1 - torch.sigmoid(beta * (better - worse))


def discopop(better: Tensor, worse: Tensor) -> Tensor:
    margin = 0.1 * (better - worse)
    blend = torch.sigmoid(margin / 0.05)
    return -(1 - blend) * logsigmoid(margin) + blend * torch.exp(-margin)


def hinge(better: Tensor, worse: Tensor) -> Tensor:
    return torch.relu(1 - 2 * (better - worse))


def averaged(better: Tensor, worse: Tensor, num_better: int, num_worse: int) -> Tensor:
    return -logsigmoid(0.1 * (better / num_better - worse / num_worse))


def sorted_scores(is_paired: bool) -> Callable[[Numbers], Tensor]:
    """The logistic loss of the k-th smallest of two lists: policy and anchor, or chosen and rejected."""

    def literal(data: Numbers) -> Tensor:
        chosen, rejected = data.rows(Source.CHOSEN), data.rows(Source.REJECTED)
        sums = {row: (data.logp[mask].sum(), data.tokens.anchor[mask].sum()) for row, mask in [*chosen, *rejected]}
        partner = {int(data.samples.group[row]): row for row, _ in rejected}
        pairs = [(row, partner[int(data.samples.group[row])]) for row, _ in chosen]
        first, second = [], []
        for better, worse in pairs:
            if is_paired:
                first.append(sums[better][0] - sums[worse][0])
                second.append(sums[better][1] - sums[worse][1])
            else:
                first.append(sums[better][0] - sums[better][1])
                second.append(sums[worse][0] - sums[worse][1])
        gaps = torch.stack(first).sort().values - torch.stack(second).sort().values
        return -logsigmoid(0.1 * gaps).mean()

    return literal


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
    ({"loss": "hinge", "beta": 2.0}, objective(separate(hinge))),
    ({"loss": "exo_pair", "label_smoothing": 0.01}, objective(exo(0.01))),
    ({"loss": "nca_pair"}, objective(separate(nca))),
    ({"loss": "robust", "label_smoothing": 0.1}, objective(separate(robust))),
    ({"loss": "bco_pair"}, objective(separate(bco))),
    ({"loss": "sppo_hard"}, objective(separate(sppo))),
    ({"loss": "apo_zero"}, objective(separate(apo_zero))),
    ({"loss": "apo_down"}, objective(separate(apo_down))),
    ({"loss": "discopop"}, objective(separate(discopop))),
    ({"loss": "sigmoid_norm"}, objective(averaged)),
    ({"loss": "aot"}, sorted_scores(is_paired=True)),
    ({"loss": "aot_unpaired"}, sorted_scores(is_paired=False)),
]
