"""SAPO: (4 / tau) sigmoid(tau (r - 1)) A; mean over a sequence's tokens, then over sequences."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(positive: float, negative: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, rows = torch.zeros((), dtype=torch.float64), data.rows(Source.ROLLOUT)
        for row, mask in rows:
            rewards = data.samples.reward[data.members(row)]
            advantage = (data.samples.reward[row] - rewards.mean()) / (rewards.std() + 1e-6)
            tau = positive if advantage > 0 else negative
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            total = total - (4 / tau * torch.sigmoid(tau * (ratio - 1)) * advantage).mean()
        return total / len(rows)

    return literal


CASES = [({}, objective(1.0, 1.05)), ({"tau_pos": 2.0, "tau_neg": 0.5}, objective(2.0, 0.5))]
