"""2401.08417: -log sigmoid of beta times the difference of summed log-probs, plus the NLL of the chosen tokens."""

from collections.abc import Callable

from exam.batches import Numbers
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from literal.simpo import PairLoss, objective
from obverse.types import Source


def with_sft(loss: PairLoss, weight: float) -> Callable[[Numbers], Tensor]:
    return lambda data: objective(loss)(data) - weight * data.logp[data.mask(Source.CHOSEN)].mean()


def summed(chosen: Tensor, rejected: Tensor) -> Tensor:
    return -logsigmoid(0.1 * (chosen.sum() - rejected.sum()))


def hinge(chosen: Tensor, rejected: Tensor) -> Tensor:
    return relu(1 - 0.3 * (chosen.sum() - rejected.sum()))


def squared(chosen: Tensor, rejected: Tensor) -> Tensor:
    return (chosen.mean() - rejected.mean() - 1 / (2 * 0.1)) ** 2


CASES = [
    ({}, with_sft(summed, 1.0)),
    ({"cpo_alpha": 0.0}, with_sft(summed, 0.0)),
    ({"loss": "hinge", "beta": 0.3, "cpo_alpha": 0.2}, with_sft(hinge, 0.2)),
    ({"loss": "ipo"}, with_sft(squared, 1.0)),
]
