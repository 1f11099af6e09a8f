"""Advantages within a problem's rollouts only: a demonstration in the group does not change them. Each gives [T]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from obverse.estimator.parts.interfaces import Part
from obverse.estimator.tables import group_sum
from obverse.types import Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs, Samples


@dataclass(frozen=True)
class OwnCentered(Part):
    """A = R - mean(R) over the problem's rollouts; equal rewards give 0. Source: LUFFY's ablations, 2504.14945."""

    needs: ClassVar[frozenset[str]] = frozenset({"reward", "own_group"})
    is_policy_independent: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs) -> Tensor:
        return inputs.spread(rollout_deviation(inputs.samples)[0])


@dataclass(frozen=True)
class OwnStandardized(Part):
    """A = (R - mean) / (std + eps) over the problem's rollouts, std unbiased. Source: CHORD, 2508.11408.

    Equal rewards give exactly 0, and so does a single rollout.
    """

    eps: float = 1e-6
    needs: ClassVar[frozenset[str]] = frozenset({"reward", "own_group"})
    is_policy_independent: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs) -> Tensor:
        deviation, num_rollouts = rollout_deviation(inputs.samples)
        variance = group_sum(inputs.samples, deviation**2) / (num_rollouts - 1).clamp(min=1)
        return inputs.spread(deviation / (variance.sqrt() + self.eps))


def rollout_deviation(samples: Samples) -> tuple[Tensor, Tensor]:
    """[S], [S]: each rollout's reward minus the mean of its group's rollouts (0 for other samples); their number."""
    is_rollout = samples.counts[:, int(Source.ROLLOUT)] > 0
    zero = samples.reward.new_zeros(())
    num_rollouts = group_sum(samples, is_rollout.to(samples.reward.dtype))
    mean = group_sum(samples, samples.reward.where(is_rollout, zero)) / num_rollouts.clamp(min=1)
    return (samples.reward - mean).where(is_rollout, zero), num_rollouts
