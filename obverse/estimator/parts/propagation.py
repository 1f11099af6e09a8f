"""Weights from the losses of earlier and later tokens of the same sample; each part maps inputs to [T]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from obverse.estimator.parts.interfaces import Part

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs

SMALLEST_SUM = 1e-30  # a sample whose losses are all 0 has weights of 0


@dataclass(frozen=True)
class Geometric(Part):
    """A_k = 1 + gamma + ... + gamma^k at position k: later tokens weigh more. Source: 2405.11870 eq. 21."""

    gamma: float

    def __call__(self, inputs: PartInputs) -> Tensor:
        number = (inputs.tokens.position + 1).to(inputs.policy.logp.dtype)
        return number if self.gamma == 1 else (1 - self.gamma**number) / (1 - self.gamma)


@dataclass(frozen=True)
class Propagated(Part):
    """A_k = (C_k + P_k - L G_k) / S: minus the gradient of sum_t l_t C_t / S by the token's log-prob; [T].

    l_t = -log p_t; C_k = sum over t >= k of gamma^(t - k) l_t, the discounted later losses; P_k = sum over t <= k of
    gamma^(k - t) l_t; G_k = 1 + gamma + ... + gamma^k; S = sum_t C_t and L = sum_t l_t C_t / S over the sample. Weights
    are negative where a token is much likelier than the rest. Source: IFT, 2405.11870, authors' code.
    """

    gamma: float

    def __call__(self, inputs: PartInputs) -> Tensor:
        losses, indices = inputs.in_rows(-inputs.policy.logp)
        ahead, behind, reach = (losses.new_zeros(losses.shape) for _ in range(3))
        carried = losses.new_zeros(len(losses))
        for step in reversed(range(losses.shape[1])):
            carried = losses[:, step] + self.gamma * carried
            ahead[:, step] = carried
        carried, sum_of_powers = losses.new_zeros(len(losses)), 0.0
        for step in range(losses.shape[1]):
            carried, sum_of_powers = losses[:, step] + self.gamma * carried, 1 + self.gamma * sum_of_powers
            behind[:, step], reach[:, step] = carried, sum_of_powers
        total = ahead.sum(1, keepdim=True).clamp(min=SMALLEST_SUM)
        mean = (losses * ahead).sum(1, keepdim=True) / total
        return ((ahead + behind - mean * reach) / total)[indices]
