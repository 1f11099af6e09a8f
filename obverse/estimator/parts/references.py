"""log pi_ref, the log of the denominator of the importance ratio; each part maps inputs to [T].

TRL's `ref_model`, the frozen initial model, is called `anchor`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from obverse.estimator.parts.advantages import Centered, success_rate
from obverse.estimator.parts.interfaces import Part
from obverse.estimator.tables import LOG_RATIO_LIMIT
from obverse.types import Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs


@dataclass(frozen=True)
class Itself(Part):
    """pi_ref = pi_theta: the ratio is 1. Source: SFT and REINFORCE, 2509.04419 table 1."""

    equals_policy_at_start: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs) -> Tensor:
        return inputs.policy.logp


@dataclass(frozen=True)
class Behavior(Part):
    """pi_ref = the policy that sampled the token: the importance ratio. Source: PPO, 1707.06347 eq. 6."""

    needs: ClassVar[frozenset[str]] = frozenset({"behavior"})
    equals_policy_at_start: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs) -> Tensor:
        return inputs.tokens.behavior


@dataclass(frozen=True)
class CappedBehavior(Part):
    """The behavior policy, moved so that the ratio stays within [floor, cap]: a capped weight, not a mask; [T].

    pi_ref = max(pi_old, pi_theta / cap), with a floor also min(that, pi_theta / floor). Source: CISPO, 2506.13585.
    """

    cap: float
    floor: float = 0.0
    needs: ClassVar[frozenset[str]] = frozenset({"behavior"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        logp = inputs.policy.logp
        capped = inputs.tokens.behavior.maximum(logp - math.log(self.cap))
        return capped.minimum(logp - math.log(self.floor)) if self.floor > 0 else capped


@dataclass(frozen=True)
class SequenceMean(Part):
    """pi_ref = pi_theta / s_i, s_i = exp(mean over the sample's tokens of log pi_theta / pi_old); [T].

    The ratio of every token is its sample's geometric mean. Source: GSPO, 2507.18071.
    """

    source: Source = Source.ROLLOUT
    needs: ClassVar[frozenset[str]] = frozenset({"behavior"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        mean = inputs.sample_mean(inputs.policy.logp - inputs.tokens.behavior, self.source)
        return inputs.policy.logp - inputs.spread(mean)


@dataclass(frozen=True)
class SequenceProduct(Part):
    """pi_ref = pi_theta / S_i, S_i = pi_theta(y) / pi_old(y): every token has its sample's ratio; [T].

    Source: TRL's RLOO, after 2402.14740.
    """

    source: Source = Source.ROLLOUT
    needs: ClassVar[frozenset[str]] = frozenset({"behavior"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        total = inputs.sample_sum(inputs.policy.logp - inputs.tokens.behavior, self.source)
        # clamped first: a huge sum would absorb logp in floating point
        return inputs.policy.logp - inputs.spread(total.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))


@dataclass(frozen=True)
class GammaWeighted(Part):
    """pi_ref = pi_theta / phi_i, phi(W) = e^l W^k e^(-l W), W = pi_theta(y) / pi_old(y): the weight of a sequence; [T].

    phi(1) = 1, and phi is largest at W = k / l. (k, l) is (k_pos, lambda_pos) where the reward is at least its group's
    mean, and (k_neg, lambda_neg) below it. Log-ratios of tokens and their sum are clamped to +-20, as in the code.
    Source: VESPO, 2602.10693.
    """

    k_pos: float
    lambda_pos: float
    k_neg: float
    lambda_neg: float
    limit: float = 20.0
    needs: ClassVar[frozenset[str]] = frozenset({"behavior", "reward", "group"})

    def __post_init__(self) -> None:
        if min(self.k_pos, self.lambda_pos, self.k_neg, self.lambda_neg) < 0:
            raise ValueError("k and lambda must be at least 0: the weight would grow without bound")

    def __call__(self, inputs: PartInputs) -> Tensor:
        per_token = (inputs.policy.logp - inputs.tokens.behavior).clamp(-self.limit, self.limit)
        log_ratio = inputs.spread(inputs.sample_sum(per_token, Source.ROLLOUT)).clamp(-self.limit, self.limit)
        excess, is_positive = -log_ratio.expm1(), Centered()(inputs) >= 0  # 1 - W
        positive = self.k_pos * log_ratio + self.lambda_pos * excess
        log_weight = positive.where(is_positive, self.k_neg * log_ratio + self.lambda_neg * excess)
        # clamped first: a huge weight would absorb logp in floating point
        return inputs.policy.logp - log_weight.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


@dataclass(frozen=True)
class ClippedMean(Part):
    """pi_ref = pi_theta / G_i, G_i the geometric mean of the sample's *clipped* token ratios; [T].

    The clip is pessimistic: log-ratios are at most `high` where the reward is above its group's mean, and at least
    -`low` where it is below. Source: GMPO, 2507.20673.
    """

    low: float
    high: float
    needs: ClassVar[frozenset[str]] = frozenset({"behavior", "reward"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        log_ratio, better = inputs.policy.logp - inputs.tokens.behavior, Centered()(inputs) > 0
        clipped = log_ratio.clamp(max=self.high).where(better, log_ratio.clamp(min=-self.low))
        return inputs.policy.logp - inputs.spread(inputs.sample_mean(clipped, Source.ROLLOUT))


@dataclass(frozen=True)
class ImplicitNegative(Part):
    """pi_ref = pi_old max((1 - r R) / (1 - r), floor), R = pi_theta / pi_old, r the group's success rate; [T].

    The policy of incorrect answers implied by pi_old and pi_theta. log R is cut at 10, as in the authors' code.
    Source: NFT, 2505.18118.
    """

    floor: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({"behavior", "correct"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        log_ratio, rate = (
            (inputs.policy.logp - inputs.tokens.behavior).clamp(max=10.0),
            inputs.spread(success_rate(inputs.samples)),
        )
        negative = ((1 - rate * log_ratio.exp()) / (1 - rate)).clamp(min=self.floor)
        return inputs.policy.logp - log_ratio + negative.log()
