"""2602.10693: log pi times the advantage and a weight of the sequence's ratio, not derived; a mean over tokens."""

import math
from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(k_pos: float, lambda_pos: float, k_neg: float, lambda_neg: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for row, mask in data.rows(Source.ROLLOUT):
            rewards = data.samples.reward[data.members(row)]
            advantage = (data.samples.reward[row] - rewards.mean()) / (rewards.std() + 1e-6)
            k, rate = (k_pos, lambda_pos) if advantage >= 0 else (k_neg, lambda_neg)
            log_ratio = float((data.logp[mask].detach() - data.tokens.behavior[mask]).clamp(-20, 20).sum())
            log_ratio = min(max(log_ratio, -20.0), 20.0)
            weight = math.exp(max(rate + k * log_ratio - rate * math.exp(log_ratio), -80.0))
            total = total - weight * advantage * data.logp[mask].sum()
            num_tokens += int(mask.sum())
        return total / num_tokens

    return literal


CASES = [
    ({}, objective(2.0, 3.0, 3.0, 2.0)),
    ({"k_pos": 1.0, "lambda_pos": 0.5, "k_neg": 0.3, "lambda_neg": 1.5}, objective(1.0, 0.5, 0.3, 1.5)),
]
