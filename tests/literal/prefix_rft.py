"""2507.01679: the dual-clipped surrogate over own samples, continuations and the torn part of their prefixes."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(
    length: int = 8192,
    clip: float = 0.2,
    most: float = 3.0,
    top: float = 0.2,
    entropy_coef: float = 0.001,
    alone: bool = False,
) -> Callable[[Numbers], Tensor]:
    def surrogate(data: Numbers, mask: Tensor, advantage: Tensor) -> Tensor:
        ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
        smaller = torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
        return torch.max(smaller, most * advantage) if advantage < 0 else smaller

    def literal(data: Numbers) -> Tensor:
        total, hints = torch.zeros((), dtype=torch.float64), dict(data.rows(Source.HINT))
        for row, mask in data.rows(Source.ROLLOUT):
            plain = [float(data.samples.reward[i]) for i in data.members(row) if i not in hints]
            advantage = data.samples.reward[row] - (sum(plain) / len(plain) if plain else 0.0)
            if row in hints:
                entropy = data.entropy.detach()[hints[row]]
                torn = (entropy >= torch.quantile(entropy, 1 - top)).double()
                total = total - (torn * surrogate(data, hints[row], advantage)).sum()
            if row in hints and alone:
                advantage = data.samples.reward[row]
            total = total - surrogate(data, mask, advantage).sum()
        return total / length / len(data.samples) - entropy_coef * data.entropy.mean()

    return literal


CASES = [
    ({}, objective()),
    ({"hint_advantage": "v1", "max_completion_length": 64}, objective(64, alone=True)),
    (
        {"epsilon": 0.1, "dual_clip": 1.5, "top_entropy": 0.5, "entropy_coef": 0.0},
        objective(clip=0.1, most=1.5, top=0.5, entropy_coef=0.0),
    ),
]
