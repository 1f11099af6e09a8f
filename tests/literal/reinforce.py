"""The policy gradient: (R - b) log pi(y); and REINFORCE++'s returns, whitened over the tokens of the batch."""

from collections.abc import Callable
from typing import Literal

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source

Baseline = Literal["none", "batch", "known"]


def objective(
    baseline: Baseline = "none", scale: bool = False, token_mean: bool = False
) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        rows = data.rows(Source.ROLLOUT)
        returns = torch.cat([data.samples.reward[row].expand(int(mask.sum())) for row, mask in rows])
        total = torch.zeros((), dtype=torch.float64)
        for row, mask in rows:
            expected = {"none": 0.0, "batch": returns.mean(), "known": data.samples.memory[row]}[baseline]
            advantage = data.samples.reward[row] - expected
            if scale:
                advantage = advantage / returns.std(unbiased=False)
            total = total - advantage * data.logp[mask].sum()
        return total / (len(returns) if token_mean else len(rows))

    return literal


# what is known of a problem, or of the run, is another number in each group of the exam; tests/parts/test_memory.py
# looks at where it comes from
CASES = [
    ({}, objective()),
    ({"baseline": "batch"}, objective("batch")),
    ({"baseline": "batch", "scale_rewards": "batch", "token_mean": True}, objective("batch", True, True)),
    ({"token_mean": True}, objective(token_mean=True)),
    ({"baseline": "running", "momentum": 0.9}, objective("known")),
    ({"baseline": "greedy"}, objective("known")),
    ({"baseline": "greedy", "token_mean": True}, objective("known", token_mean=True)),
]
