"""log pi_ref: the log of the estimator's denominator; each part maps a view to [T]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from obverse.parts.part import Part

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.view import View


@dataclass(frozen=True)
class Itself(Part):
    """pi_ref = pi_theta: the ratio is 1. Source: SFT and REINFORCE, 2509.04419 table 1."""

    def __call__(self, view: View) -> Tensor:
        return view.live.logp


@dataclass(frozen=True)
class Behavior(Part):
    """pi_ref = the policy that sampled the token: the importance ratio. Source: PPO, 1707.06347 eq. 6."""

    needs: ClassVar[frozenset[str]] = frozenset({"behavior"})

    def __call__(self, view: View) -> Tensor:
        return view.tokens.behavior
