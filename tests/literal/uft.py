"""2505.16984: token means of GRPO's surrogate and k3 on continuations, beta times the hint's log-likelihood."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(
    beta: float = 0.001, hint: float = 0.001, entropy_coef: float = 0.001, hint_sum: bool = False, clip: float = 0.2
) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, rows, hints = torch.zeros((), dtype=torch.float64), data.rows(Source.ROLLOUT), data.rows(Source.HINT)
        num_own, num_hint = (sum(int(mask.sum()) for _, mask in each) for each in (rows, hints))
        for row, mask in rows:
            rewards = data.samples.reward[data.members(row)]
            advantage = (data.samples.reward[row] - rewards.mean()) / (rewards.std() + 1e-6)
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            surrogate = torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
            gap = data.logp[mask] - data.tokens.anchor[mask]
            k3 = torch.exp(-gap) + gap - 1
            total = total - (surrogate - beta * k3 + entropy_coef * data.entropy[mask]).sum() / num_own
        for _, mask in hints if hint else []:
            total = total - hint * data.logp[mask].sum() / (len(data.samples) if hint_sum else num_hint)
        return total

    return literal


CASES = [
    ({}, objective()),
    ({"beta": 0.3, "epsilon": 0.1, "entropy_coef": 0.0}, objective(0.3, 0.3, 0.0, clip=0.1)),
    ({"hint_sum": True, "hint_coef": 0.2}, objective(hint=0.2, hint_sum=True)),
    ({"hint_coef": 0.0}, objective(hint=0.0)),
]
