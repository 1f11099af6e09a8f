"""Weights of demonstration tokens, for which no behavior probability exists.

A shaping is a reference: with an objective f(p) A the estimator's denominator is pi_ref = 1 / f'(p), whose log is [T].
The entropy weights are advantages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

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
