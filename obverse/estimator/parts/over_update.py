"""Parts that compare a token's policy outputs with those of all rollout tokens of the update.

They read `inputs.update`, which a first pass over the whole update computes: splitting it into micro batches or ranks
changes nothing. U is the number of the update's trained tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from obverse.estimator.parts.advantages import Standardized
from obverse.estimator.parts.interfaces import Mask, Normalizer, Part
from obverse.estimator.parts.masks import Clip
from obverse.estimator.parts.ratio_shaping import STRIDES
from obverse.types import Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs

Side = Literal["top", "bottom"]
# So that the sampling log-probs of two tokens at one position of a problem's samples give unrelated fractions.
FRACTION_SCALE = 1e4
# Relative difference up to which two numbers count as equal. Tokens behind equal texts, as the first of a problem's
# samples, have equal entropies, which rounding must not put on two sides of a threshold; and a token's log-ratio in the
# first pass and in the update come from two forward passes.
ROUNDING = 1e-5


def is_rollout(inputs: PartInputs) -> Tensor:
    """bool [T]: the tokens that the policy sampled."""
    return inputs.tokens.source == int(Source.ROLLOUT)


def quantile(values: Tensor, fraction: float) -> Tensor:
    """The quantile of [N] values, interpolated linearly between the two nearest, as torch.quantile; a scalar."""
    ordered, rank = values.sort().values, fraction * (len(values) - 1)
    low = math.floor(rank)
    below, above = ordered[low], ordered[min(low + 1, len(ordered) - 1)]
    return below + (above - below) * (rank - low)


def covariance(inputs: PartInputs, advantage: Tensor) -> Tensor:
    """(A - mean A)(log p - mean log p) of each token, means over the rollout tokens; [T]."""
    rollout = is_rollout(inputs)
    logp = inputs.policy.logp
    return (advantage - advantage[rollout].mean()) * (logp - logp[rollout].mean())


def num_selected(fraction: float, num_tokens: int) -> int:
    """The number of tokens that a fraction of them is, rounded down; at least 1."""
    return max(1, int(fraction * num_tokens + 1e-9))


@dataclass(frozen=True)
class TopEntropy(Mask):
    """Another mask, restricted to the tokens of highest entropy: a fraction `top` of the update's rollout tokens; [T].

    A token counts if its entropy is at least the quantile 1 - top over the whole update, interpolated linearly. The
    denominators do not change. Source: 2506.01939; `top_entropy_quantile` in TRL.
    """

    mask: Mask
    top: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.top <= 1:
            raise ValueError(f"top_entropy_quantile must be above 0 and at most 1, not {self.top:g}")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return self.mask.needs | {"update", "entropy"}

    @property
    def needs_whole_groups(self) -> bool:  # type: ignore[override]
        return self.mask.needs_whole_groups

    def __call__(self, inputs: PartInputs, ratio: Tensor, advantage: Tensor) -> Tensor:
        mask, update = self.mask(inputs, ratio, advantage), inputs.update
        rollout, entropy = is_rollout(update), update.policy.entropy
        if not bool(rollout.any()):
            return mask
        is_high = entropy >= quantile(entropy[rollout], 1 - self.top) * (1 - ROUNDING)
        return mask * inputs.from_update(is_high).to(mask.dtype)


@dataclass(frozen=True)
class ClipCovariance(Clip):
    """PPO's clip that also drops a few tokens of high log-prob and high advantage; [T].

    Of the rollout tokens of the update that the clip keeps, with a covariance (A - mean A)(log p - mean log p)
    between `lowest` and `highest`, a fraction `share` of all tokens (at least one) is dropped, chosen by a fixed number
    in [0, 1) of each token: a function of problem, position, sampling log-prob and progress, so that a run can be
    repeated. Source: Clip-Cov, 2505.22617.
    """

    share: float = 2e-4
    lowest: float = 1.0
    highest: float = 5.0
    advantage: Part = field(default_factory=Standardized)
    reads_ratio_only: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return self.advantage.needs | {"update", "behavior"}

    def __call__(self, inputs: PartInputs, ratio: Tensor, advantage: Tensor) -> Tensor:
        dropped = inputs.from_update(self._dropped(inputs.update))
        return super().__call__(inputs, ratio, advantage) * (~dropped).to(ratio.dtype)

    def _dropped(self, update: PartInputs) -> Tensor:
        """bool [U]: the tokens that are dropped beside those of the clip."""
        advantage, rollout = self.advantage(update), is_rollout(update)
        if not bool(rollout.any()):
            return rollout
        ratio = (update.policy.logp - update.tokens.behavior).exp()
        value, kept = covariance(update, advantage), super().__call__(update, ratio, advantage) > 0
        candidates = rollout & kept & (value > self.lowest) & (value < self.highest)
        along, over = STRIDES
        number = update.spread(update.samples.uniform) + along * update.tokens.position + 1000 * over * update.progress
        number = (number + FRACTION_SCALE * update.tokens.behavior.abs()) % 1.0
        number = number.where(candidates, number.new_tensor(2.0))
        num = min(num_selected(self.share, int(rollout.sum())), len(number))
        return candidates & (number <= number.topk(num, largest=False).values.max())


@dataclass(frozen=True)
class CovariancePenalty(Part):
    """A = -sgn(log pi_theta - log pi_old) at the rollout tokens of largest covariance, 0 at all others; [T].

    A fraction `share` of the update's rollout tokens, at least one, by (A - mean A)(log p - mean log p), where that is
    above 0; ties with the last one are kept. It is the gradient of -|log pi_theta - log pi_old|.
    Source: KL-Cov, 2505.22617.
    """

    share: float = 2e-4
    advantage: Part = field(default_factory=Standardized)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return self.advantage.needs | {"update", "behavior"}

    def __call__(self, inputs: PartInputs) -> Tensor:
        update = inputs.update
        rollout, value = is_rollout(update), covariance(update, self.advantage(update))
        drift = (inputs.policy.logp - inputs.tokens.behavior).sign()
        if not bool(rollout.any()):
            return -drift * 0
        largest = value[rollout].topk(num_selected(self.share, int(rollout.sum()))).values.min()
        return -drift * inputs.from_update(rollout & (value >= largest * (1 - ROUNDING)) & (value > 0)).to(drift.dtype)


@dataclass(frozen=True)
class SecondMomentClip(Mask):
    """PPO's clip with bounds that keep the mean square of the harmful log-ratios within a budget; [T].

    Harmful are tokens that the clip could act on: A > 0 and ratio > 1, or A < 0 and ratio < 1. With d their log-ratios
    in the whole update, tau is the largest |d| for which the mean of min(d^2, tau^2) is at most `budget`; the bounds
    are e^-tau and e^tau, but at least `low` below and `high` above 1. Source: M2PO, 2510.01161.
    """

    budget: float = 0.04
    low: float = 0.3
    high: float = 0.5
    advantage: Part = field(default_factory=Standardized)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return self.advantage.needs | {"update", "behavior"}

    def __call__(self, inputs: PartInputs, ratio: Tensor, advantage: Tensor) -> Tensor:
        tau = self.threshold(inputs.update) * (1 + ROUNDING)
        log_ratio = inputs.policy.logp - inputs.tokens.behavior
        highest, lowest = max(tau, math.log1p(self.high)), min(-tau, math.log1p(-self.low))
        too_high, too_low = (advantage > 0) & (log_ratio > highest), (advantage < 0) & (log_ratio < lowest)
        return (~(too_high | too_low)).to(ratio.dtype)

    def threshold(self, update: PartInputs) -> float:
        """tau over the update's tokens; 0 without a harmful one, or if the smallest is above the budget alone."""
        log_ratio, advantage = update.policy.logp - update.tokens.behavior, self.advantage(update)
        harmful = is_rollout(update) & (log_ratio * advantage > 0)
        squares = (log_ratio[harmful] ** 2).sort().values
        if len(squares) == 0:
            return 0.0
        num_above = len(squares) - squares.new_ones(len(squares)).cumsum(0)
        capped = (squares.cumsum(0) + num_above * squares) / len(squares)
        fitting = squares[capped <= self.budget]
        return math.sqrt(float(fitting.max())) if len(fitting) else 0.0


def is_beyond(logp: Tensor, threshold: float, side: Side) -> Tensor:
    """bool [T]: the tokens with a probability of at least the threshold (`top`), or of at most it (`bottom`)."""
    bound = math.log(threshold)
    return logp >= bound if side == "top" else logp <= bound


@dataclass(frozen=True)
class Beyond(Mask):
    """Keeps the tokens with a probability p >= threshold (`top`) or p <= threshold (`bottom`); [T].

    Source: OnlyTopP and OnlyBottomP, 2510.00526.
    """

    threshold: float
    side: Side = "top"

    def __call__(self, inputs: PartInputs, ratio: Tensor, advantage: Tensor) -> Tensor:
        return is_beyond(inputs.policy.logp, self.threshold, self.side).to(ratio.dtype)


@dataclass(frozen=True)
class PerTokenBeyond(Normalizer):
    """1 / K: a mean over the K tokens of the term's source in the whole update that `Beyond` keeps, at least 1."""

    threshold: float
    side: Side = "top"
    needs: ClassVar[frozenset[str]] = frozenset({"update"})

    def __call__(self, inputs: PartInputs, source: Source) -> Tensor:
        update = inputs.update
        is_of_source = update.tokens.source == int(source)
        number = (is_beyond(update.policy.logp, self.threshold, self.side) & is_of_source).sum().clamp(min=1)
        return inputs.policy.logp.new_ones(inputs.policy.logp.shape) / number
