"""2605.15155 in ms-swift's port: GRPO's surrogate, plus the gated gap between teacher and policy as a token mean."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(coef: float = 0.1, steepness: float = 5.0, beta: float = 0.0) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, gated, rows = torch.zeros((), dtype=torch.float64), [], data.rows(Source.ROLLOUT)
        for row, mask in rows:
            rewards = data.samples.reward[data.members(row)]
            advantage = (data.samples.reward[row] - rewards.mean()) / (rewards.std() + 1e-6)
            logp = data.logp[mask]
            ratio = torch.exp(logp - data.tokens.behavior[mask])
            surrogate = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            gap = logp - data.tokens.anchor[mask]
            total = total - (surrogate - beta * (torch.exp(-gap) + gap - 1)).mean() / len(rows)
            distance = data.tokens.teacher[mask] - logp
            gated.append(torch.sigmoid(steepness * distance).detach() * distance)
        return total + coef * torch.cat(gated).mean()

    return literal


CASES = [({}, objective()), ({"coef": 1.0, "gate_beta": 2.0, "beta": 0.1}, objective(1.0, 2.0, 0.1))]
