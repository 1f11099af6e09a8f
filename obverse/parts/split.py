"""Advantages among a problem's own samples only: a demonstration in the group changes nobody's mean. Each gives [T]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from obverse.parts.part import Part
from obverse.records import Source
from obverse.view import group_sum

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.view import Samples, View


@dataclass(frozen=True)
class OwnCentered(Part):
    """A = R - mean(R) over the problem's own samples; equal rewards give 0. Source: LUFFY's ablations, 2504.14945."""

    needs: ClassVar[frozenset[str]] = frozenset({"reward", "own_group"})
    settled: ClassVar[bool] = True

    def __call__(self, view: View) -> Tensor:
        return view.spread(own_deviation(view.samples)[0])


@dataclass(frozen=True)
class OwnStandardized(Part):
    """A = (R - mean) / (std + eps) over the problem's own samples, std unbiased. Source: CHORD, 2508.11408.

    Equal rewards give exactly 0, and so does a single own sample.
    """

    eps: float = 1e-6
    needs: ClassVar[frozenset[str]] = frozenset({"reward", "own_group"})
    settled: ClassVar[bool] = True

    def __call__(self, view: View) -> Tensor:
        deviation, num_own = own_deviation(view.samples)
        variance = group_sum(view.samples, deviation**2) / (num_own - 1).clamp(min=1)
        return view.spread(deviation / (variance.sqrt() + self.eps))


def own_deviation(samples: Samples) -> tuple[Tensor, Tensor]:
    """[S], [S]: each own sample's reward minus their mean in its group (0 for others); their number in the group."""
    own = samples.counts[:, int(Source.ROLLOUT)] > 0
    nothing = samples.reward.new_zeros(())
    num_own = group_sum(samples, own.to(samples.reward.dtype))
    mean = group_sum(samples, samples.reward.where(own, nothing)) / num_own.clamp(min=1)
    return (samples.reward - mean).where(own, nothing), num_own
