"""2507.20673: the geometric mean of pessimistically clipped token ratios, times the advantage; mean over sequences."""

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
            sign = 1.0 if advantage > 0 else -1.0
            signed = sign * (data.logp[mask] - data.tokens.behavior[mask])
            lower, upper = (-low, high) if sign > 0 else (-high, low)
            ratio = torch.exp((sign * torch.min(signed, signed.clamp(lower, upper))).mean())
            total = total - ratio * advantage
        return total / len(rows)

    return literal


CASES = [({}, objective(0.4, 0.4)), ({"epsilon": 0.1, "epsilon_high": 0.6}, objective(0.1, 0.6))]
