"""The policy gradient: (R - b) log pi(y); and REINFORCE++'s returns, whitened over the tokens of the batch."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.records import Source


def objective(center: bool = False, scale: bool = False, token_mean: bool = False) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        rows = data.rows(Source.ROLLOUT)
        returns = torch.cat([data.samples.reward[row].expand(int(mask.sum())) for row, mask in rows])
        total = torch.zeros((), dtype=torch.float64)
        for row, mask in rows:
            advantage = data.samples.reward[row] - (returns.mean() if center else 0.0)
            if scale:
                advantage = advantage / returns.std(unbiased=False)
            total = total - advantage * data.logp[mask].sum()
        return total / (len(returns) if token_mean else len(rows))

    return literal


CASES = [
    ({}, objective()),
    ({"baseline": "batch"}, objective(center=True)),
    ({"baseline": "batch", "scale_rewards": "batch", "token_mean": True}, objective(True, True, True)),
    ({"token_mean": True}, objective(token_mean=True)),
]
