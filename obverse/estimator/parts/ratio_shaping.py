"""Weights of demonstration tokens, for which no behavior probability exists.

A shaping is a reference: with an objective f(p) A the estimator's denominator is pi_ref = 1 / f'(p), whose log is [T].
The entropy weights are advantages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from obverse.estimator.parts.advantages import Centered
from obverse.estimator.parts.interfaces import Mask, Part
from obverse.estimator.tables import LOG_RATIO_LIMIT
from obverse.types import Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs

Level = Literal["sequence", "token"]
# Steps of additive sequences that fill [0, 1) evenly: 1 / x and 1 / x^2 of the root of x^3 = x + 1.
STRIDES = (0.7548776662, 0.5698402910)


@dataclass(frozen=True)
class Saturating(Part):
    """pi_ref = (p + gamma)^2 / gamma: f(p) = p / (p + gamma), weight A gamma p / (p + gamma)^2, at most A / 4.

    Source: policy shaping, 2504.14945; `p_div_p_0.1` in the authors' code.
    """

    gamma: float = 0.1

    def __call__(self, inputs: PartInputs) -> Tensor:
        return 2 * (inputs.policy.logp.exp() + self.gamma).log() - math.log(self.gamma)


@dataclass(frozen=True)
class Power(Part):
    """pi_ref = p^(1 - a) / a: f(p) = p^a, weight A a p^a; a = 1/2 is the square root. Source: 2504.14945's code."""

    exponent: float = 0.5

    def __call__(self, inputs: PartInputs) -> Tensor:
        return (1 - self.exponent) * inputs.policy.logp - math.log(self.exponent)


@dataclass(frozen=True)
class Logarithm(Part):
    """pi_ref = p / scale: f(p) = scale log p, weight A scale: SFT times the advantage. Source: 2504.14945's code."""

    scale: float = 1.0

    def __call__(self, inputs: PartInputs) -> Tensor:
        return inputs.policy.logp - math.log(self.scale)


@dataclass(frozen=True)
class LogarithmToo(Part):
    """pi_ref = p / (p + scale): f(p) = p + scale log p, weight A (p + scale). Source: `p_logp` in 2504.14945's code."""

    scale: float = 1.0

    def __call__(self, inputs: PartInputs) -> Tensor:
        return inputs.policy.logp - (inputs.policy.logp.exp() + self.scale).log()


@dataclass(frozen=True)
class SaturatingRatio(Part):
    """f(x) = x / (x + gamma) of the ratio x = pi / pi_recorded: weight A gamma x / (x + gamma)^2; [T].

    It is pi_ref = pi (x + gamma)^2 / (gamma x). The recorded policy is the one that sampled the token, in an earlier
    step. Source: ExGRPO, 2510.02245; `p_div_p_0.1` of the ratio in its code.
    """

    gamma: float = 0.1
    needs: ClassVar[frozenset[str]] = frozenset({"behavior"})

    def __post_init__(self) -> None:
        if self.gamma <= 0:
            raise ValueError(f"gamma must be above 0, not {self.gamma:g}")

    def __call__(self, inputs: PartInputs) -> Tensor:
        log_ratio = (inputs.policy.logp - inputs.tokens.behavior).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        log_weight = math.log(self.gamma) + log_ratio - 2 * (log_ratio.exp() + self.gamma).log()
        return inputs.policy.logp - log_weight


@dataclass(frozen=True)
class Accepted(Mask):
    """Keeps a token with probability p, the policy's: 1 where u < p, else 0; [T]. The expected weight is A p.

    u is not random but (uniform + a position + 1000 b progress) mod 1, `uniform` the sample's: the same in every run
    and for any split into micro batches, and different for each token and step.
    Source: rejection of tokens, `classic_reject_token` in 2504.14945's code, which draws at random.
    """

    def __call__(self, inputs: PartInputs, ratio: Tensor, advantage: Tensor) -> Tensor:
        along, over = STRIDES
        uniform = (
            inputs.spread(inputs.samples.uniform) + along * inputs.tokens.position + 1000 * over * inputs.progress
        ) % 1.0
        return (uniform < inputs.policy.logp.exp()).to(ratio.dtype)


def entropy_of(inputs: PartInputs, source: Source, level: Level) -> Tensor:
    """The policy's entropy at each token, or the mean over the sample's tokens of `source`; [T]."""
    entropy = inputs.policy.entropy
    values = entropy if level == "token" else inputs.spread(inputs.sample_mean(entropy, source))
    return values.clamp(max=LOG_RATIO_LIMIT)


@dataclass(frozen=True)
class Confident(Part):
    """A = scale exp(-H): imitate demonstrations where the policy's entropy is low. Source: w_SFT, 2506.19767."""

    scale: float = 0.5
    level: Level = "sequence"
    needs: ClassVar[frozenset[str]] = frozenset({"entropy"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        return self.scale * (-entropy_of(inputs, Source.DEMONSTRATION, self.level)).exp()


@dataclass(frozen=True)
class Signed(Part):
    """A = scale exp(H) for correct rollouts, -1 for all other samples; no baseline. Source: w_RL, 2506.19767."""

    scale: float = 0.1
    level: Level = "sequence"
    needs: ClassVar[frozenset[str]] = frozenset({"entropy", "correct"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        raised = self.scale * entropy_of(inputs, Source.ROLLOUT, self.level).exp()
        return raised.where(inputs.spread(inputs.samples.correct), raised.new_tensor(-1.0))


@dataclass(frozen=True)
class AtLeast(Part):
    """pi_ref = max(p, trust): weight A above the trusted probability and A p / trust below it. Source: 2512.17636."""

    trust: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.trust <= 1:
            raise ValueError(f"trust is a probability above 0 and at most 1, not {self.trust:g}")

    def __call__(self, inputs: PartInputs) -> Tensor:
        return inputs.policy.logp.clamp(min=math.log(self.trust))


@dataclass(frozen=True)
class Tempered(Part):
    """pi_ref = p^(1 - alpha): weight A p^alpha; alpha 0 is SFT, 1 DFT, below 0 it grows as p falls.

    Source: 2510.00526.
    """

    alpha: float = 1.0

    def __call__(self, inputs: PartInputs) -> Tensor:
        return (1 - self.alpha) * inputs.policy.logp


@dataclass(frozen=True)
class MixtureBehavior(Part):
    """pi_ref = ((1 + omega) pi_old + 1 - omega) / 2, the mean of pi_old and an assumed author; [T].

    The author of a demonstration is unknown and taken as omega pi_old + (1 - omega): omega of its probability is the
    policy's, the rest certain. Source: RL-PLUS, 2508.00222, omega 0.5 in the authors' code.
    """

    omega: float = 0.5
    needs: ClassVar[frozenset[str]] = frozenset({"behavior"})

    def __post_init__(self) -> None:
        if not 0 <= self.omega <= 1:
            raise ValueError(f"omega is between 0 and 1, not {self.omega:g}")

    def __call__(self, inputs: PartInputs) -> Tensor:
        return (((1 + self.omega) * inputs.tokens.behavior.exp() + 1 - self.omega) / 2).log()


@dataclass(frozen=True)
class CenteredSurprise(Part):
    """A = (R - mean(R)) (1 - p)^gamma, the group's centered reward times a bonus for unlikely tokens; [T].

    Source: RL-PLUS, 2508.00222.
    """

    gamma: float = 0.5
    needs: ClassVar[frozenset[str]] = frozenset({"reward", "group"})

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise ValueError(f"gamma must be at least 0, not {self.gamma:g}")

    def __call__(self, inputs: PartInputs) -> Tensor:
        return Centered()(inputs) * (-inputs.policy.logp.expm1()).clamp(min=0) ** self.gamma


@dataclass(frozen=True)
class EntropyShare(Part):
    """A = (H / most)^alpha, H the entropy at the token: imitate where the policy is undecided. Source: 2601.02151."""

    alpha: float = 1.0
    most: float = 3.0
    needs: ClassVar[frozenset[str]] = frozenset({"entropy"})

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise ValueError(
                f"alpha must be at least 0, not {self.alpha:g}: tokens without entropy would have no bound"
            )

    def __call__(self, inputs: PartInputs) -> Tensor:
        return (inputs.policy.entropy / self.most).clamp(min=0) ** self.alpha
