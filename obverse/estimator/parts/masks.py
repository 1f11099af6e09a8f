"""1_stable, the stability mask: which tokens count; each maps (inputs, ratio [T], advantage [T]) to [T]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from obverse.estimator.parts.interfaces import Mask
from obverse.estimator.tables import LOG_RATIO_LIMIT

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs


@dataclass(frozen=True)
class Always(Mask):
    """No mask: every token counts. Source: SFT, REINFORCE and HPT's released code (2509.04419)."""

    reads_ratio_only: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs, ratio: Tensor, advantage: Tensor) -> Tensor:
        return ratio.new_ones(ratio.shape)


@dataclass(frozen=True)
class Clip(Mask):
    """The gradient of min(r A, clip(r, 1 - low, 1 + high) A) / (r A): PPO's clip as a mask. Source: 1707.06347 eq. 7.

    Inclusive at the boundary, as torch.clamp is: unclipped means r <= 1 + high for A > 0 and r >= 1 - low for A < 0.
    """

    low: float = 0.2
    high: float = 0.2
    reads_ratio_only: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs, ratio: Tensor, advantage: Tensor) -> Tensor:
        too_high = (advantage > 0) & (ratio > 1 + self.high)
        too_low = (advantage < 0) & (ratio < 1 - self.low)
        return (~(too_high | too_low)).to(ratio.dtype)


@dataclass(frozen=True)
class DoubleClip(Clip):
    """PPO's clip that also drops tokens with A < 0 and ratio > most: the loss is at most -most A there; [T].

    Inclusive as the clip is: a token with ratio = most counts. Source: dual clip, 1912.09729 [mem].
    """

    most: float = 3.0
    reads_ratio_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.most <= 1:
            raise ValueError(f"a dual clip at {self.most:g} would drop tokens of the sampling policy: give one above 1")

    def __call__(self, inputs: PartInputs, ratio: Tensor, advantage: Tensor) -> Tensor:
        far = (advantage < 0) & (ratio > self.most)
        return super().__call__(inputs, ratio, advantage) * (~far).to(ratio.dtype)


@dataclass(frozen=True)
class TokenClip(Mask):
    """A clip of each token's log-ratio to the behavior policy, for any reference; [T]. Source: GMPO, 2507.20673.

    Inclusive: unclipped means log-ratio <= high for A > 0 and log-ratio >= -low for A < 0.
    """

    low: float
    high: float
    needs: ClassVar[frozenset[str]] = frozenset({"behavior"})

    def __call__(self, inputs: PartInputs, ratio: Tensor, advantage: Tensor) -> Tensor:
        log_ratio = inputs.policy.logp - inputs.tokens.behavior
        too_high = (advantage > 0) & (log_ratio > self.high)
        too_low = (advantage < 0) & (log_ratio < -self.low)
        return (~(too_high | too_low)).to(ratio.dtype)


@dataclass(frozen=True)
class Soft(Mask):
    """4 s (1 - s), s = sigmoid(tau (ratio - 1)): 1 at ratio 1, falling smoothly on both sides; [T].

    tau is `positive` for A > 0 and `negative` else. Source: SAPO, 2511.20347 [mem].
    """

    positive: float = 1.0
    negative: float = 1.05
    reads_ratio_only: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs, ratio: Tensor, advantage: Tensor) -> Tensor:
        slope = ((ratio - 1) * self.positive).where(advantage > 0, (ratio - 1) * self.negative)
        return 4 * slope.sigmoid() * (-slope).sigmoid()


@dataclass(frozen=True)
class NotFallen(Mask):
    """Drops tokens whose probability fell by more than `threshold` since sampling, p - pi_old < -threshold; [T].

    The sign of the advantage does not matter, and a difference of exactly -threshold counts. Source: prime-rl's
    importance mask; the total variation behind it is DPPO's, 2602.04879.
    """

    threshold: float = 0.2
    needs: ClassVar[frozenset[str]] = frozenset({"behavior"})

    def __call__(self, inputs: PartInputs, ratio: Tensor, advantage: Tensor) -> Tensor:
        change = inputs.policy.logp.exp() - inputs.tokens.behavior.exp()
        return (change >= -self.threshold).to(ratio.dtype)


# behavior: the policy that sampled the token, by the trainer's log-probs; sampler: by those of the sampling program
SampledBy = Literal["behavior", "sampler"]


@dataclass(frozen=True)
class _Divergence(Mask):
    """A bound of the divergence between the policy and the one that sampled, estimated on the sampled token.

    Only moves away from the sampling policy are dropped: a rise of the token's probability where A > 0, a fall where
    A < 0. `low` bounds falls, `high` rises, both inclusively. Source: DPPO, 2602.04879.
    """

    low: float
    high: float
    sampled_by: SampledBy = "behavior"

    def __post_init__(self) -> None:
        if self.low < 0 or self.high < 0:
            raise ValueError("the bounds of a divergence must be at least 0")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({self.sampled_by})

    def sampled(self, inputs: PartInputs) -> Tensor:
        """log mu of the sampled token; [T]."""
        return inputs.tokens.behavior if self.sampled_by == "behavior" else inputs.tokens.sampler


@dataclass(frozen=True)
class ProbabilityChange(_Divergence):
    """Keeps tokens with p - mu <= high where A > 0, and p - mu >= -low where A < 0; [T].

    |p - mu| is the total variation between policy and mu on {the token, all others}. Source: DPPO, 2602.04879.
    """

    def __call__(self, inputs: PartInputs, ratio: Tensor, advantage: Tensor) -> Tensor:
        change = inputs.policy.logp.exp() - self.sampled(inputs).exp()
        too_high, too_low = (advantage > 0) & (change > self.high), (advantage < 0) & (change < -self.low)
        return (~(too_high | too_low)).to(ratio.dtype)


@dataclass(frozen=True)
class BinaryKL(_Divergence):
    """Keeps tokens with KL((mu, 1 - mu) || (p, 1 - p)) <= the bound, and those that move back towards mu; [T].

    The bound is `high` where A > 0 and `low` where A < 0; a token moves back if p <= mu where A > 0, or p >= mu where
    A < 0. Source: DPPO, 2602.04879.
    """

    def __call__(self, inputs: PartInputs, ratio: Tensor, advantage: Tensor) -> Tensor:
        logp, sampled = inputs.policy.logp, self.sampled(inputs)
        rest, sampled_rest = ((-value.expm1()).clamp(min=math.exp(-LOG_RATIO_LIMIT)) for value in (logp, sampled))
        divergence = sampled.exp() * (sampled - logp) + sampled_rest * (sampled_rest / rest).log()
        too_high = (advantage > 0) & (logp > sampled) & (divergence > self.high)
        too_low = (advantage < 0) & (logp < sampled) & (divergence > self.low)
        return (~(too_high | too_low)).to(ratio.dtype)
