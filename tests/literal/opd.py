"""2306.08543 with a discount of 0: log pi_T - log pi of each own token as its reward, weighted by the ratio."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(
    reward_coef: float = 0.0,
    kl_coef: float = 1.0,
    epsilon: float | None = None,
    is_live: bool = False,
    drop: float | None = None,
    squared: float = 0.0,
) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for row, mask in data.rows(Source.ROLLOUT):
            logp, behavior = data.logp[mask], data.tokens.behavior[mask]
            rewards = data.samples.reward[data.members(row)]
            score = (data.samples.reward[row] - rewards.mean()) / (rewards.std() + 1e-6)
            start = logp.detach() if is_live else behavior
            advantage = kl_coef * (data.tokens.teacher[mask] - start) + reward_coef * score
            ratio = torch.exp(logp - behavior)
            gain = ratio * advantage
            if epsilon is not None:
                gain = torch.min(gain, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)
            if drop is not None:
                gain = gain * (logp.exp() - behavior.exp() >= -drop).detach()
            total = total - (gain - squared * (logp - behavior) ** 2).sum()
            num_tokens += len(logp)
        return total / num_tokens

    return literal


CASES = [
    ({}, objective()),
    ({"reward_coef": 0.7, "kl_coef": 0.5}, objective(0.7, 0.5)),
    ({"epsilon": 0.2, "reward_coef": 1.0}, objective(1.0, epsilon=0.2)),
    (
        {"baseline": "policy", "max_probability_drop": 0.2, "behavior_kl_coef": 0.002},
        objective(is_live=True, drop=0.2, squared=0.001),
    ),
]
