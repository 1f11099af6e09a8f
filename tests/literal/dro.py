"""2405.19107 in verl's form: log pi times the advantage, less half beta times the squared log-ratio; token mean."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(beta: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for row, mask in data.rows(Source.ROLLOUT):
            rewards = data.samples.reward[data.members(row)]
            advantage = (data.samples.reward[row] - rewards.mean()) / (rewards.std() + 1e-6)
            gap = data.logp[mask] - data.tokens.behavior[mask]
            total = total - (advantage * data.logp[mask] - beta / 2 * gap**2).sum()
            num_tokens += int(mask.sum())
        return total / num_tokens

    return literal


CASES = [({}, objective(0.1)), ({"beta": 2.0}, objective(2.0)), ({"beta": 0.0}, objective(0.0))]
