"""Advantages among a problem's own samples only: a demonstration in the group changes nobody's mean. Each gives [T]."""

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
    """A = R - mean(R) over the problem's own samples; equal rewards give 0. Source: LUFFY's ablations, 2504.14945."""

    needs: ClassVar[frozenset[str]] = frozenset({"reward", "own_group"})
    is_policy_independent: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs) -> Tensor:
        return inputs.spread(own_deviation(inputs.samples)[0])


@dataclass(frozen=True)
class OwnStandardized(Part):
    """A = (R - mean) / (std + eps) over the problem's own samples, std unbiased. Source: CHORD, 2508.11408.

    Equal rewards give exactly 0, and so does a single own sample.
    """

    eps: float = 1e-6
    needs: ClassVar[frozenset[str]] = frozenset({"reward", "own_group"})
    is_policy_independent: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs) -> Tensor:
        deviation, num_own = own_deviation(inputs.samples)
        variance = group_sum(inputs.samples, deviation**2) / (num_own - 1).clamp(min=1)
        return inputs.spread(deviation / (variance.sqrt() + self.eps))


def own_deviation(samples: Samples) -> tuple[Tensor, Tensor]:
    """[S], [S]: each own sample's reward minus their mean in its group (0 for others); their number in the group."""
    own = samples.counts[:, int(Source.ROLLOUT)] > 0
    nothing = samples.reward.new_zeros(())
    num_own = group_sum(samples, own.to(samples.reward.dtype))
    mean = group_sum(samples, samples.reward.where(own, nothing)) / num_own.clamp(min=1)
    return (samples.reward - mean).where(own, nothing), num_own
