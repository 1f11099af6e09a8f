"""2506.01347: PPO's clipped surrogate, a mean over tokens, with -1 for wrong answers, a small weight for right ones."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(low: float, high: float, positive: float) -> Callable[[Numbers], Tensor]:
    """Without right answers where their weight is 0: `keep` has dropped them."""

    def literal(data: Numbers) -> Tensor:
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for row, mask in data.rows(Source.ROLLOUT):
            advantage = positive if data.update.rows[row].grade.correct else -1.0
            assert positive or advantage < 0
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            total = total - torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage).sum()
            num_tokens += int(mask.sum())
        return total / num_tokens

    return literal


CASES = [
    ({}, objective(0.2, 0.2, 0.1)),
    ({"positive_weight": 0.0}, objective(0.2, 0.2, 0.0)),
    ({"positive_weight": 1.0, "epsilon": 0.1, "epsilon_high": 0.5}, objective(0.1, 0.5, 1.0)),
]
