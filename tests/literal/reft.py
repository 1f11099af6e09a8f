"""2401.08967: a token-mean NLL, then PPO whose policy and value losses are means over sequences of token means."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from literal.sft_then_rl import likelihood
from obverse.types import Source


def objective(clip: float = 0.2, value_clip: float = 0.2, value_coef: float = 1.0) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, rows = torch.zeros((), dtype=torch.float64), data.rows(Source.ROLLOUT)
        for _, mask in rows:
            advantage, target = data.tokens.advantage[mask], data.tokens.returns[mask]
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            gain = torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()
            value, before = data.value[mask], data.tokens.value[mask]
            near = torch.clamp(value, before - value_clip, before + value_clip)
            error = torch.max((value - target) ** 2, (near - target) ** 2).mean() / 2
            total = total - (gain - value_coef * error) / len(rows)
        return total

    return literal


CASES = [
    ({}, likelihood, 0),
    ({}, objective(), 1),
    ({"epsilon": 0.1, "value_clip": 0.5, "value_coef": 5.0, "kl_coef": 0.0}, objective(0.1, 0.5, 5.0), 1),
]
