"""After 2507.00018, reconstructed: the mean over tokens of -f(x) / beta, x = beta log(pi_theta / pi_anchor).

Below x = -0.5 squared Hellinger and Jensen-Shannon go on along their tangents.
"""

from collections.abc import Callable
from math import exp, log

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def total_variation(x: Tensor) -> Tensor:
    return x


def pearson(x: Tensor) -> Tensor:
    return x - x**2 / 4


def squared_hellinger(x: Tensor) -> Tensor:
    if x < -0.5:
        return -1 + 4 * (x + 0.5)
    return x / (1 + x)


def jensen_shannon(x: Tensor) -> Tensor:
    if x < -0.5:
        return log(2 - exp(0.5)) + exp(0.5) / (2 - exp(0.5)) * (x + 0.5)
    return torch.log(2 - torch.exp(-x))


def objective(f: Callable[[Tensor], Tensor], beta: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for _, mask in data.rows(Source.DEMONSTRATION):
            for logp, anchor in zip(data.logp[mask], data.tokens.anchor[mask], strict=True):
                total = total - f(beta * (logp - anchor)) / beta
                num_tokens += 1
        return total / num_tokens

    return literal


CASES = [
    ({}, objective(pearson, 0.1)),
    ({"divergence": "total_variation"}, objective(total_variation, 0.1)),
    ({"divergence": "pearson", "beta": 1.0}, objective(pearson, 1.0)),
    ({"divergence": "squared_hellinger", "beta": 0.5}, objective(squared_hellinger, 0.5)),
    ({"divergence": "jensen_shannon", "beta": 1.0}, objective(jensen_shannon, 1.0)),
]
