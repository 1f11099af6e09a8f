"""Advantages with other baselines and scales than the group's mean and std; each part maps inputs to [T].

They are known before a forward pass, so samples with an advantage of 0 need none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from obverse.errors import ConfigError
from obverse.estimator.parts.advantages import Whitened
from obverse.estimator.parts.interfaces import Part
from obverse.estimator.tables import group_mean, group_size, group_sum
from obverse.types import Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs, Samples


@dataclass(frozen=True)
class RelativeToMean(Part):
    """A = (R - mean) / (mean + eps) within the problem's group; [T]. Source: MaxRL, 2602.02710.

    Equal rewards give 0, and so does a group of one. Raises ConfigError for a negative reward: the mean could then be
    0 or negative, which makes the scale arbitrary or turns the sign.
    """

    eps: float = 1e-6
    needs: ClassVar[frozenset[str]] = frozenset({"reward", "group"})
    is_policy_independent: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs) -> Tensor:
        samples, reward = inputs.samples, inputs.samples.reward
        if bool((reward < 0).any()):
            raise ConfigError(
                f"the advantage divides by the group's mean reward, and a reward is {float(reward.min()):g}: rewards "
                "must be at least 0; use a verifier, and no penalty or KL in the reward"
            )
        mean = group_mean(samples, reward)
        return inputs.spread((reward - mean) / (mean + self.eps))


@dataclass(frozen=True)
class RightOrWrong(Part):
    """A = `positive` for correct samples, -1 for all other samples, without a baseline; [T].

    Source: weighted REINFORCE, 2506.01347.
    """

    positive: float = 0.1
    needs: ClassVar[frozenset[str]] = frozenset({"correct"})
    is_policy_independent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.positive < 0:
            raise ValueError(f"the weight of correct samples must be at least 0, not {self.positive:g}")

    def __call__(self, inputs: PartInputs) -> Tensor:
        reward = inputs.samples.reward
        positive = reward.new_tensor(self.positive)
        return inputs.spread(positive.where(inputs.samples.correct, reward.new_tensor(-1.0)))


@dataclass(frozen=True)
class PassAtK(Part):
    """The advantage of pass@k as reward, averaged over all subsets of k samples of the group; [T].

    With n samples, w of them wrong, and m = 1 - C(w, k) / C(n, k), the estimate of pass@k, s = sqrt(m (1 - m)):
    A = (1 - m) / (s + eps) for correct samples and (1 - m - C(w - 1, k - 1) / C(n - 1, k - 1)) / (s + eps) for wrong
    ones. It is 0 where all samples are wrong, where w < k (every subset has a correct sample), and in a group of fewer
    than k samples, which has no estimate. Source: pass@k training, 2508.10751, authors' code.
    """

    k: int
    eps: float = 1e-6
    needs: ClassVar[frozenset[str]] = frozenset({"correct", "group"})
    is_policy_independent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, not {self.k}")

    def __call__(self, inputs: PartInputs) -> Tensor:
        samples = inputs.samples
        size, is_wrong = group_size(samples), (~samples.correct).to(samples.reward.dtype)
        num_wrong = group_sum(samples, is_wrong)
        failed = subset_share(num_wrong, size, self.k)  # C(w, k) / C(n, k) = 1 - m
        scale = ((1 - failed) * failed).sqrt() + self.eps
        others_wrong = subset_share(num_wrong - 1, size - 1, self.k - 1)
        advantage = (failed - is_wrong * others_wrong) / scale
        return inputs.spread(advantage.where(size >= self.k, advantage.new_zeros(())))


def subset_share(num: Tensor, size: Tensor, k: int) -> Tensor:
    """C(num, k) / C(size, k): the share of subsets of k members that lie within `num` of `size` members; [S].

    It is exactly 0 for num < k and exactly 1 for num = size >= k.
    """
    share = size.new_ones(size.shape)
    for index in range(k):
        share = share * (num - index).clamp(min=0) / (size - index).clamp(min=1)
    return share


@dataclass(frozen=True)
class BestMargin(Part):
    """A = (R_best - R_second) / (std + eps) for the group's best sample, 0 for all others; [T]. std is unbiased.

    Two samples that share the highest reward give 0. Raises ConfigError for a group of one, which has no second.
    Source: pass@k policy optimization, 2503.19595, as in verl's `grpo_passk`.
    """

    eps: float = 1e-6
    needs: ClassVar[frozenset[str]] = frozenset({"reward", "group"})
    is_policy_independent: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs) -> Tensor:
        samples, reward = inputs.samples, inputs.samples.reward
        size = group_size(samples)
        if bool((size < 2).any()):
            raise ConfigError(
                "the margin of the best sample over the second needs two samples of every problem, and one problem has "
                "a single sample: sample at least 2 per problem"
            )
        best = group_max(samples, reward)
        is_best = reward == best
        second = group_max(samples, reward.new_tensor(-float("inf")).where(is_best, reward))
        is_unique = group_sum(samples, is_best.to(reward.dtype)) == 1
        variance = group_sum(samples, (reward - group_mean(samples, reward)) ** 2) / (size - 1).clamp(min=1)
        advantage = (best - second) / (variance.sqrt() + self.eps)
        return inputs.spread(advantage.where(is_best & is_unique, advantage.new_zeros(())))


def group_max(samples: Samples, per_sample: Tensor) -> Tensor:
    """[S] -> [S]: the largest value of each sample's group."""
    num_groups = int(samples.group.max()) + 1 if len(samples) else 0
    most = per_sample.new_full((num_groups,), -float("inf"))
    return most.scatter_reduce(0, samples.group, per_sample, "amax")[samples.group]


@dataclass(frozen=True)
class LengthCentered(Part):
    """A = R - sum_j n_j R_j / sum_j n_j over the problem's group, n the samples' numbers of tokens; [T].

    The baseline of least variance if a sample's squared gradient norm is proportional to its length. Equal rewards
    give 0; a group of one has no baseline and keeps R. Source: OPO, 2505.23585.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reward", "group"})
    is_policy_independent: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs) -> Tensor:
        samples, reward = inputs.samples, inputs.samples.reward
        lengths = samples.counts[:, int(Source.ROLLOUT)].to(reward.dtype)
        mean = group_mean(samples, reward)
        # relative to the plain mean: equal rewards then give exactly 0
        offset = group_sum(samples, lengths * (reward - mean)) / group_sum(samples, lengths).clamp(min=1)
        centered = reward - mean - offset
        return inputs.spread(centered.where(group_size(samples) > 1, reward))


@dataclass(frozen=True)
class WhitenedCentered(Whitened):
    """A = R - mean(R) within the problem's group, then whitened over the update's rollout tokens; [T].

    Equal rewards in every group give 0; a group of one has no baseline and keeps R.
    Source: REINFORCE++ with baseline, 2501.03262 [mem], as in verl.
    """

    scale: bool = True
    needs: ClassVar[frozenset[str]] = frozenset({"reward", "group"})

    def values(self, inputs: PartInputs) -> Tensor:
        samples, reward = inputs.samples, inputs.samples.reward
        return (reward - group_mean(samples, reward)).where(group_size(samples) > 1, reward)
