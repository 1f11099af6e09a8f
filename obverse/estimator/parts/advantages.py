"""A, the advantage of a token; each part maps inputs to [T]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from obverse.estimator.parts.interfaces import Part
from obverse.estimator.tables import group_mean, group_size, group_sum
from obverse.types import Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs, Samples


@dataclass(frozen=True)
class One(Part):
    """A = 1: imitate the token. Source: SFT as policy gradient, 2509.04419 table 1."""

    is_policy_independent: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs) -> Tensor:
        return inputs.policy.logp.new_ones(inputs.policy.logp.shape)


@dataclass(frozen=True)
class Centered(Part):
    """A = R - mean(R) within the problem's group; equal rewards give 0. Source: Dr.GRPO, 2503.20783."""

    needs: ClassVar[frozenset[str]] = frozenset({"reward", "group"})
    is_policy_independent: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs) -> Tensor:
        reward = inputs.samples.reward
        return inputs.spread(reward - group_mean(inputs.samples, reward))


@dataclass(frozen=True)
class Standardized(Part):
    """A = (R - mean) / (std + eps) within the problem's group, std unbiased (n - 1). Source: GRPO, 2402.03300 sec. 4.1.

    Equal rewards give exactly 0, and so does a group of one. eps = 1e-6 as in verl (TRL has 1e-4).
    """

    eps: float = 1e-6
    needs: ClassVar[frozenset[str]] = frozenset({"reward", "group"})
    is_policy_independent: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs) -> Tensor:
        samples, reward = inputs.samples, inputs.samples.reward
        deviation = reward - group_mean(samples, reward)
        variance = group_sum(samples, deviation**2) / (group_size(samples) - 1).clamp(min=1)
        return inputs.spread(deviation / (variance.sqrt() + self.eps))


@dataclass(frozen=True)
class LeaveOneOut(Part):
    """A = R_i - mean of the group's other rewards = n / (n - 1) (R_i - mean(R)); [T]. Source: RLOO, 2402.14740.

    Equal rewards give 0, and so does a group of one, which has no other rewards.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reward", "group"})
    is_policy_independent: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs) -> Tensor:
        samples, reward = inputs.samples, inputs.samples.reward
        size = group_size(samples)
        return inputs.spread((reward - group_mean(samples, reward)) * size / (size - 1).clamp(min=1))


@dataclass(frozen=True)
class Reward(Part):
    """A = R: the sample's reward without a baseline; [T]. Source: REINFORCE, 2509.04419 table 1."""

    needs: ClassVar[frozenset[str]] = frozenset({"reward"})
    is_policy_independent: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs) -> Tensor:
        return inputs.spread(inputs.samples.reward)


@dataclass(frozen=True)
class Whitened(Part):
    """A = R - mean over the update's rollout tokens, divided by their std (population) with `scale`; [T].

    A sample counts once per token, as in masked whitening of token returns. Source: REINFORCE++, 2501.03262 [mem].
    """

    scale: bool = False
    min_variance: float = 1e-8
    needs: ClassVar[frozenset[str]] = frozenset({"reward"})
    is_policy_independent: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs) -> Tensor:
        values = self.values(inputs)
        counts = inputs.samples.counts[:, int(Source.ROLLOUT)].to(values.dtype)
        num_tokens = counts.sum().clamp(min=1)
        deviation = values - (values * counts).sum() / num_tokens
        if self.scale:
            variance = (deviation**2 * counts).sum() / num_tokens
            deviation = deviation / variance.clamp(min=self.min_variance).sqrt()
        return inputs.spread(deviation)

    def values(self, inputs: PartInputs) -> Tensor:
        """The numbers to whiten, one per sample; [S]."""
        return inputs.samples.reward


@dataclass(frozen=True)
class Decoupled(Part):
    """A = the weighted sum of the standardized rewards of all reward functions, whitened over the update; [T].

    Each reward is standardized by itself within the problem's group: (r - mean) / (std + eps), std unbiased. Samples to
    which a reward function does not apply are left out of its mean and have 0 for it; so has every sample of a group in
    which the reward is the same for all. The sum has the weights of the run's reward functions.

    `whitening` over "tokens" counts a sample once per rollout token, (x - mean) / sqrt(variance + whitening_eps); over
    "samples" it is (x - mean) / (std + whitening_eps). The variance is unbiased. Source: GDPO, 2601.05242.
    """

    whitening: Literal["tokens", "samples"] = "tokens"
    eps: float = 1e-6
    whitening_eps: float = 1e-8
    needs: ClassVar[frozenset[str]] = frozenset({"rewards", "group"})
    is_policy_independent: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs) -> Tensor:
        total = self.weighted_sum(inputs.samples)
        counts = inputs.samples.counts[:, int(Source.ROLLOUT)]
        frequency = (counts if self.whitening == "tokens" else counts.clamp(max=1)).to(total.dtype)
        number = frequency.sum()
        deviation = total - (total * frequency).sum() / number.clamp(min=1)
        variance = (deviation**2 * frequency).sum() / (number - 1).clamp(min=1)
        if self.whitening == "tokens":
            return inputs.spread(_quotient(deviation, (variance + self.whitening_eps).sqrt()))
        return inputs.spread(_quotient(deviation, variance.sqrt() + self.whitening_eps))

    def weighted_sum(self, samples: Samples) -> Tensor:
        """The sum of the standardized rewards, each times its weight; [S]."""
        total = samples.rewards.new_zeros(len(samples))
        for column, weight in zip(samples.rewards.unbind(1), samples.reward_weights.unbind(1), strict=True):
            applies = (~column.isnan()).to(column.dtype)
            number = group_sum(samples, applies)
            reward = column.nan_to_num()
            deviation = (reward - group_sum(samples, reward) / number.clamp(min=1)) * applies
            variance = group_sum(samples, deviation**2) / (number - 1).clamp(min=1)
            total = total + weight * _quotient(deviation, variance.sqrt() + self.eps)
        return total


def _quotient(deviation: Tensor, scale: Tensor) -> Tensor:
    """deviation / scale, and 0 where the deviation is 0, whatever the scale."""
    return (deviation / scale).where(deviation != 0, deviation.new_zeros(()))


def success_rate(samples: Samples) -> Tensor:
    """[S]: the fraction of correct samples in each sample's group, clamped to [0.02, 0.98] (code of 2505.18118)."""
    return group_mean(samples, samples.correct.to(samples.reward.dtype)).clamp(0.02, 0.98)


@dataclass(frozen=True)
class Right(Part):
    """A = omega(r) for tokens of correct samples, 0 otherwise; [T]; r is the group's success rate.

    `prompt_weight` selects omega: 0 is 1, 1 is 1 - r, 2 is sqrt((1 - r) / r). Source: NFT, 2505.18118.
    """

    prompt_weight: float = 0
    needs: ClassVar[frozenset[str]] = frozenset({"correct"})
    is_policy_independent: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs) -> Tensor:
        return inputs.spread(self.omega(inputs.samples) * inputs.samples.correct)

    def omega(self, samples: Samples) -> Tensor:
        """[S]: the weight of each sample's problem."""
        rate = success_rate(samples)
        if self.prompt_weight == 0:
            return rate.new_ones(rate.shape)
        return 1 - rate if self.prompt_weight == 1 else ((1 - rate) / rate).sqrt()


@dataclass(frozen=True)
class Wrong(Right):
    """A = -omega(r) r / (1 - r) for tokens of incorrect samples, 0 otherwise; [T]. Source: NFT, 2505.18118."""

    def __call__(self, inputs: PartInputs) -> Tensor:
        rate = success_rate(inputs.samples)
        return inputs.spread(-self.omega(inputs.samples) * rate / (1 - rate) * ~inputs.samples.correct)
