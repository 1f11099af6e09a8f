"""A: how much a token is worth; each part maps a view to [T]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from obverse.parts.part import Part
from obverse.view import LOG_RATIO_LIMIT, group_mean, group_size, group_sum

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.view import View


@dataclass(frozen=True)
class One(Part):
    """A = 1: imitate the token. Source: SFT as policy gradient, 2509.04419 table 1."""

    def __call__(self, view: View) -> Tensor:
        return view.live.logp.new_ones(view.live.logp.shape)


@dataclass(frozen=True)
class Centered(Part):
    """A = R - mean(R) within the problem's group; equal rewards give 0. Source: Dr.GRPO, 2503.20783."""

    def __call__(self, view: View) -> Tensor:
        reward = view.samples.reward
        return view.spread(reward - group_mean(view.samples, reward))


@dataclass(frozen=True)
class Standardized(Part):
    """A = (R - mean) / (std + eps) within the problem's group, std unbiased (n - 1). Source: GRPO, 2402.03300 sec. 4.1.

    Equal rewards give exactly 0, and so does a group of one. eps = 1e-6 as in verl (TRL has 1e-4).
    """

    eps: float = 1e-6

    def __call__(self, view: View) -> Tensor:
        samples, reward = view.samples, view.samples.reward
        deviation = reward - group_mean(samples, reward)
        variance = group_sum(samples, deviation**2) / (group_size(samples) - 1).clamp(min=1)
        return view.spread(deviation / (variance.sqrt() + self.eps))


@dataclass(frozen=True)
class TowardsAnchor(Part):
    """A = pi_anchor / pi_theta - 1: minus the gradient of the k3 estimate of KL(pi_theta || pi_anchor).

    k3 = e^(-d) + d - 1 with d = log pi_theta - log pi_anchor. Source: GRPO, 2402.03300 eq. 4. In expectation over own
    samples this gradient is that of the *forward* KL(pi_anchor || pi_theta), although k3's value estimates the reverse.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"anchor"})

    def __call__(self, view: View) -> Tensor:
        return (view.tokens.anchor - view.live.logp).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp() - 1.0
