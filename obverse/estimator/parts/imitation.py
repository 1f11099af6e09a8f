"""Weights of demonstration tokens: references and advantages of imitation methods; each maps inputs to [T].

All are detached weights of the token's log-prob: with pi_ref = pi_theta (`Itself`) the weight is A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from obverse.estimator.parts.interfaces import Part
from obverse.estimator.tables import LOG_RATIO_LIMIT
from obverse.types import Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs

SMALLEST_DOUBT = 1e-6  # 1 - p is at least this: an exponent gamma - 1 below 0 stays finite at p = 1
# f'(x) of a weight that has a pole below 0 is constant below this: the objective continues as a straight line.
LOWEST_REWARD = -0.5


@dataclass(frozen=True)
class Unit(Part):
    """log pi_ref = 0: the ratio is the token's own probability. Source: DFT, 2508.05629 eq. 9; 2509.04419 table 1."""

    def __call__(self, inputs: PartInputs) -> Tensor:
        return inputs.policy.logp.new_zeros(inputs.policy.logp.shape)


@dataclass(frozen=True)
class AnchorRatio(Part):
    """A = pi_theta / pi_anchor of the token, clipped to [low, high]. Source: iw-SFT's token form, 2507.12856."""

    low: float
    high: float
    needs: ClassVar[frozenset[str]] = frozenset({"anchor"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        return log_anchor_ratio(inputs).exp().clamp(self.low, self.high)


@dataclass(frozen=True)
class SequenceAnchorRatio(Part):
    """A = exp(tau mean_t log(pi_theta / pi_anchor)) over a sample's tokens of `source`, clipped to [low, high].

    Every token of the sample gets the same number. Source: iw-SFT's sequence form, 2507.12856 (authors' code).
    """

    low: float
    high: float
    tau: float = 1.0
    source: Source = Source.DEMONSTRATION
    needs: ClassVar[frozenset[str]] = frozenset({"anchor"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        mean = inputs.sample_mean(log_anchor_ratio(inputs), self.source)
        ratio = (self.tau * mean).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
        return inputs.spread(ratio.clamp(self.low, self.high))


@dataclass(frozen=True)
class Doubt(Part):
    """A = (1 - p)^gamma - gamma p (1 - p)^(gamma - 1) log p: the gradient of (1 - p)^gamma log p by log p.

    With `detached` the factor carries no gradient and A = (1 - p)^gamma. Source: focal loss, 1708.02002 eq. 4.
    """

    gamma: float = 2.0
    detached: bool = False

    def __call__(self, inputs: PartInputs) -> Tensor:
        logp = inputs.policy.logp.clamp(min=-LOG_RATIO_LIMIT)  # p log p is 0 far below
        probability = logp.exp()
        doubt = (-logp.expm1()).clamp(min=SMALLEST_DOUBT)
        if self.detached:
            return doubt**self.gamma
        return doubt**self.gamma - self.gamma * probability * doubt ** (self.gamma - 1) * logp


@dataclass(frozen=True)
class Undecided(Part):
    """A = p (1 - p), largest for tokens of probability 1/2. Source: CHORD's phi, 2508.11408."""

    def __call__(self, inputs: PartInputs) -> Tensor:
        return -inputs.policy.logp.exp() * inputs.policy.logp.expm1()


@dataclass(frozen=True)
class Pearson(Part):
    """A = 1 - x / 2 with the token's implicit reward x = beta log(pi_theta / pi_anchor); negative above x = 2.

    The gradient of f(x) / beta, f(x) = x - x^2 / 4. Source: reconstruction after 2507.00018 [derived].
    """

    beta: float
    needs: ClassVar[frozenset[str]] = frozenset({"anchor"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        return 1.0 - self.beta * log_anchor_ratio(inputs) / 2


@dataclass(frozen=True)
class SquaredHellinger(Part):
    """A = 1 / (1 + x)^2 with the token's implicit reward x = beta log(pi_theta / pi_anchor), x at least -0.5.

    The gradient of f(x) / beta, f(x) = x / (1 + x). Source: reconstruction after 2507.00018 [derived].
    """

    beta: float
    needs: ClassVar[frozenset[str]] = frozenset({"anchor"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        reward = (self.beta * log_anchor_ratio(inputs)).clamp(min=LOWEST_REWARD)
        return (1.0 + reward) ** -2


@dataclass(frozen=True)
class JensenShannon(Part):
    """A = e^-x / (2 - e^-x) with the token's implicit reward x = beta log(pi_theta / pi_anchor), x at least -0.5.

    The gradient of f(x) / beta, f(x) = log(2 - e^-x). Source: reconstruction after 2507.00018 [derived].
    """

    beta: float
    needs: ClassVar[frozenset[str]] = frozenset({"anchor"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        falling = (-(self.beta * log_anchor_ratio(inputs)).clamp(min=LOWEST_REWARD)).exp()
        return falling / (2.0 - falling)


def log_anchor_ratio(inputs: PartInputs) -> Tensor:
    """log(pi_theta / pi_anchor) of every token, clamped so that its exponential is finite; [T]."""
    return (inputs.policy.logp - inputs.tokens.anchor).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
