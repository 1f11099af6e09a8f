"""2604.03128 in ms-swift's port: GRPO's surrogate with an advantage that a teacher redistributes inside a response."""

import math
from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(
    lam: float = 0.5, clip: float = 0.2, beta: float = 0.0, is_negative_only: bool = False
) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, rows = torch.zeros((), dtype=torch.float64), data.rows(Source.ROLLOUT)
        for row, mask in rows:
            rewards = data.samples.reward[data.members(row)]
            advantage = (data.samples.reward[row] - rewards.mean()) / (rewards.std() + 1e-6)
            sign = math.copysign(1.0, advantage) if advantage else 0.0
            evidence = torch.exp(sign * (data.tokens.teacher[mask] - data.tokens.behavior[mask]))
            factor = 1 - lam + lam * evidence.clamp(1 - clip, 1 + clip)
            advantages = advantage * (torch.ones_like(factor) if is_negative_only and advantage >= 0 else factor)
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            surrogate = torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
            gap = data.logp[mask] - data.tokens.anchor[mask]
            total = total - (surrogate - beta * (torch.exp(-gap) + gap - 1)).mean()
        return total / len(rows)

    return literal


CASES = [
    ({}, objective()),
    ({"lam": 1.0, "reweight_clip": 0.5, "beta": 0.1}, objective(1.0, 0.5, 0.1)),
    ({"negative_only": True}, objective(is_negative_only=True)),
    ({"lam_warmup": 0.2, "beta": 0.1}, objective(0.0, beta=0.1)),  # at the start of the run
]
