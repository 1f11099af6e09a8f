"""What a method adds to the reward that a verifier gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from obverse.parts.part import Shaping
from obverse.records import Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.view import View


@dataclass(frozen=True)
class Overlong(Shaping):
    """min(0, (longest - cache - n) / cache) factor at a sample's last token, n its own tokens: a soft limit; [T].

    0 up to the length longest - cache, then falling in a straight line to -factor at `longest`. Source: DAPO's overlong
    shaping, 2503.14476 eq. 13, as in verl's recipe.
    """

    longest: int
    cache: int
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.cache <= self.longest:
            raise ValueError(f"the overlong cache must be above 0 and at most {self.longest}, the longest completion")

    def __call__(self, view: View) -> Tensor:
        lengths = view.samples.counts[:, int(Source.ROLLOUT)].to(view.samples.reward.dtype)
        penalty = view.spread(((self.longest - self.cache - lengths) / self.cache).clamp(max=0) * self.factor)
        return penalty.where(view.is_last(), penalty.new_zeros(()))
