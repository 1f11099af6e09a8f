"""2503.02875: the mean negative log-likelihood of the first tokens; of all of them for some problems."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(length: int, whole: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for row, mask in data.rows(Source.ROLLOUT):
            logp = data.logp[mask] if data.update.rows[row].uniform < whole else data.logp[mask][:length]
            total, num_tokens = total - logp.sum(), num_tokens + len(logp)
        return total / num_tokens

    return literal


CASES = [
    ({}, objective(8, 0.1)),
    ({"prefix_length": 3}, objective(3, 0.1)),
    ({"prefix_length": 2, "whole_share": 0.5}, objective(2, 0.5)),
    ({"prefix_length": 1, "whole_share": 0.0}, objective(1, 0.0)),
]
