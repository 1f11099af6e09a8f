"""1_stable: which tokens may move; each gate maps (view, ratio [T], advantage [T]) to [T]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from obverse.parts.part import Gate

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.view import View


@dataclass(frozen=True)
class Always(Gate):
    """No mask: every token counts. Source: SFT, REINFORCE and HPT's released code (2509.04419)."""

    def __call__(self, view: View, ratio: Tensor, advantage: Tensor) -> Tensor:
        return ratio.new_ones(ratio.shape)


@dataclass(frozen=True)
class Clip(Gate):
    """The gradient of min(r A, clip(r, 1 - low, 1 + high) A) / (r A): PPO's clip as a mask. Source: 1707.06347 eq. 7.

    Inclusive at the boundary, as torch.clamp is: unclipped means r <= 1 + high for A > 0 and r >= 1 - low for A < 0.
    """

    low: float = 0.2
    high: float = 0.2

    def __call__(self, view: View, ratio: Tensor, advantage: Tensor) -> Tensor:
        too_high = (advantage > 0) & (ratio > 1 + self.high)
        too_low = (advantage < 0) & (ratio < 1 - self.low)
        return (~(too_high | too_low)).to(ratio.dtype)
