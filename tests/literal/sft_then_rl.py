"""Stage 1 is a token-mean NLL; stage 2 is GRPO's or Dr. GRPO's clipped surrogate."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def likelihood(data: Numbers) -> Tensor:
    rows = data.rows(Source.DEMONSTRATION)
    return -sum(data.logp[mask].sum() for _, mask in rows) / sum(int(mask.sum()) for _, mask in rows)


def surrogate(
    low: float = 0.2, high: float = 0.2, beta: float = 0.0, length: int | None = None
) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, rows = torch.zeros((), dtype=torch.float64), data.rows(Source.ROLLOUT)
        for row, mask in rows:
            rewards = data.samples.reward[data.members(row)]
            advantage = data.samples.reward[row] - rewards.mean()
            if length is None:
                advantage = advantage / (rewards.std() + 1e-6)
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            gap = data.logp[mask] - data.tokens.anchor[mask]
            gain = torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
            gain = gain - beta * (torch.exp(-gap) + gap - 1)
            total = total - (gain.mean() if length is None else gain.sum() / length) / len(rows)
        return total

    return literal


CASES = [
    ({}, likelihood, 0),
    ({}, surrogate(), 1),
    ({"beta": 0.3, "epsilon": 0.1, "epsilon_high": 0.3}, surrogate(0.1, 0.3, 0.3), 1),
    ({"rl": "dr_grpo", "max_completion_length": 32}, surrogate(length=32), 1),
]
