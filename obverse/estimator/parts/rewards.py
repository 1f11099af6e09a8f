"""Additions to the reward of the grader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from obverse.estimator.parts.interfaces import Shaping
from obverse.types import Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs


@dataclass(frozen=True)
class Overlong(Shaping):
    """min(0, (longest - cache - n) / cache) factor at a sample's last token, n its rollout tokens: a soft limit; [T].

    0 up to the length longest - cache, then falling in a straight line to -factor at `longest`. Source: DAPO's overlong
    shaping, 2503.14476 eq. 13, as in verl's recipe.
    """

    longest: int
    cache: int
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.cache <= self.longest:
            raise ValueError(f"the overlong cache must be above 0 and at most {self.longest}, the longest completion")

    def __call__(self, inputs: PartInputs) -> Tensor:
        lengths = inputs.samples.counts[:, int(Source.ROLLOUT)].to(inputs.samples.reward.dtype)
        penalty = inputs.spread(((self.longest - self.cache - lengths) / self.cache).clamp(max=0) * self.factor)
        return penalty.where(inputs.is_last(), penalty.new_zeros(()))
