"""2506.07527, the authors' code: RL without std and clip, summed over a constant; SFT on failed problems; entropy."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def reinforced(length: int, entropy_coef: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, rows = torch.zeros((), dtype=torch.float64), data.rows(Source.ROLLOUT)
        for row, mask in rows:
            advantage = data.samples.reward[row] - data.samples.reward[data.members(row)].mean()
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            total = total - (ratio * advantage).sum() / length / len(rows)
        return total - entropy_coef * data.entropy.mean()

    return literal


def imitated(entropy_coef: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        # of the exam's problems one was never solved: its demonstration alone is here
        (_, mask), *others = data.rows(Source.DEMONSTRATION)
        assert not others and bool(mask.all())
        return -data.logp.mean() - entropy_coef * data.entropy.mean()

    return literal


CASES = [
    ({}, reinforced(8192, 0.001), 0),
    ({"entropy_coef": 0.1, "max_completion_length": 32}, reinforced(32, 0.1), 0),
    ({}, imitated(0.001), 1),
    ({"entropy_coef": 0.0}, imitated(0.0), 1),
]
