"""2602.05261: GSPO's clipped surrogate of a sequence times the sequence's length; mean over sequences."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(low: float, high: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, rows = torch.zeros((), dtype=torch.float64), data.rows(Source.ROLLOUT)
        for row, mask in rows:
            rewards = data.samples.reward[data.members(row)]
            advantage = (data.samples.reward[row] - rewards.mean()) / (rewards.std() + 1e-6)
            ratio = torch.exp((data.logp[mask] - data.tokens.behavior[mask]).mean())
            surrogate = torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
            total = total - int(mask.sum()) * surrogate
        return total / len(rows)

    return literal


CASES = [({}, objective(2e-3, 2.5e-3)), ({"epsilon": 0.1, "epsilon_high": 0.3}, objective(0.1, 0.3))]
