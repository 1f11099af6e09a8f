"""How much a problem counts by how often it was solved: soft gates, where `plans` has hard ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from obverse.parts.part import Part
from obverse.view import group_sum

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.view import View


@dataclass(frozen=True)
class ByCount(Part):
    """Another advantage times table[k - 1], k the right members of the problem's group, a demonstration counted; [T].

    k is kept within the table: 0 reads its first number. Source: the soft gates in the code of HPT, 2509.04419.
    """

    of: Part
    table: tuple[float, ...]

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return self.of.needs | {"correct"}

    def __call__(self, view: View) -> Tensor:
        samples = view.samples
        num_right = group_sum(samples, samples.correct.to(samples.reward.dtype))
        place = num_right.round().long().clamp(1, len(self.table)) - 1
        return self.of(view) * view.spread(samples.reward.new_tensor(self.table)[place])
