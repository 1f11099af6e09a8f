"""Weights of a problem by its number of correct rollouts: soft gates; `selection` has the hard ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from obverse.estimator.parts.interfaces import Part
from obverse.estimator.tables import group_sum

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs


@dataclass(frozen=True)
class ByCount(Part):
    """Another advantage times table[k - 1], k the correct samples of the problem's group, demonstrations included; [T].

    k is clamped to the table: 0 reads the first entry. Source: the soft gates in the code of HPT, 2509.04419.
    """

    of: Part
    table: tuple[float, ...]

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return self.of.needs | {"correct"}

    def __call__(self, inputs: PartInputs) -> Tensor:
        samples = inputs.samples
        num_correct = group_sum(samples, samples.correct.to(samples.reward.dtype))
        index = num_correct.round().long().clamp(1, len(self.table)) - 1
        return self.of(inputs) * inputs.spread(samples.reward.new_tensor(self.table)[index])
