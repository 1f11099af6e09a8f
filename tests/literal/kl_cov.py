"""2505.22617: r A on all tokens, minus |log-ratio| on those of largest covariance; means over the whole update."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from literal.clip_cov import advantages, covariances
from obverse.types import Source


def objective(share: float, coef: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        advantage, covariance = covariances(data, advantages(data))
        own = data.mask(Source.ROLLOUT).nonzero()[:, 0].tolist()
        log_ratio = data.logp - data.tokens.behavior
        largest = sorted(own, key=lambda place: -float(covariance[place]))[: max(1, int(share * len(own)))]
        largest = [place for place in largest if covariance[place] > 0]
        gain = (torch.exp(log_ratio) * advantage)[own].sum() - coef * log_ratio[largest].abs().sum()
        return -gain / len(own)

    return literal


CASES = [
    ({}, objective(2e-4, 0.1)),
    ({"kl_cov_ratio": 0.3, "ppo_kl_coef": 2.0}, objective(0.3, 2.0)),
]
