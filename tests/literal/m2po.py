"""2510.01161: the clipped surrogate with bounds from the capped second moment of harmful log-ratios of the update."""

import math
from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from literal.clip_cov import advantages, covariances
from obverse.types import Source


def objective(budget: float, low: float = 0.3, high: float = 0.5) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        advantage, _ = covariances(data, advantages(data))
        own = data.mask(Source.ROLLOUT)
        log_ratio = data.logp - data.tokens.behavior
        pairs = zip(log_ratio.detach()[own].tolist(), advantage[own].tolist(), strict=True)
        harmful = [gap * gap for gap, score in pairs if gap * score > 0]
        fitting = [cap for cap in harmful if sum(min(square, cap) for square in harmful) / len(harmful) <= budget]
        tau = math.sqrt(max(fitting, default=0.0))
        ratio = torch.exp(log_ratio)
        lower, upper = min(math.exp(-tau), 1 - low), max(math.exp(tau), 1 + high)
        # a token at tau itself is on the edge, where the clipped surrogate has two slopes: the code's mask keeps it
        fixed = ratio.detach()
        kept = torch.where(advantage > 0, fixed <= upper * (1 + 1e-9), fixed >= lower * (1 - 1e-9))
        return -(ratio * advantage * kept)[own].sum() / int(own.sum())

    return literal


CASES = [
    ({}, objective(0.04)),
    ({"M2_budget": 0.5, "epsilon": 0.05, "epsilon_high": 0.05}, objective(0.5, 0.05, 0.05)),
    ({"M2_budget": 0.01, "epsilon": 0.0, "epsilon_high": 0.0}, objective(0.01, 0.0, 0.0)),
]
