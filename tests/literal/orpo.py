"""2403.07691: the NLL of the chosen tokens minus beta log sigmoid of the log odds ratio of mean log-probs."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor
from torch.nn.functional import logsigmoid

from literal.simpo import objective
from obverse.types import Source


def odds(logps: Tensor) -> Tensor:
    """log(p / (1 - p)) of the geometric mean p of the tokens' probabilities."""
    mean = logps.mean()
    return mean - torch.log1p(-mean.exp())


def with_sft(beta: float) -> Callable[[Numbers], Tensor]:
    def ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
        return -beta * logsigmoid(odds(chosen) - odds(rejected))

    return lambda data: objective(ratio)(data) - data.logp[data.mask(Source.CHOSEN)].mean()


CASES = [({}, with_sft(0.1)), ({"beta": 1.5}, with_sft(1.5))]
