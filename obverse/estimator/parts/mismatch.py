"""What the sampler's engine and the trainer disagree about: one policy, two implementations, two log-probs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from obverse.estimator.parts.interfaces import Mask
from obverse.estimator.tables import LOG_RATIO_LIMIT
from obverse.types import Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs

Correction = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


@dataclass(frozen=True)
class Corrected(Mask):
    """Another gate times u, u = pi_old / mu bounded by `cap`; mu is what the sampler reported, pi_old the trainer's.

    `truncate` takes min(u, cap), `mask` takes 0 in place of u > cap; `sequence` has one u per sample, the product over
    its tokens; [T]. Source: truncated importance sampling, 1802.01561, and TRL's names for its variants.
    """

    gate: Mask
    mode: Correction = "token_truncate"
    cap: float = 2.0
    source: Source = Source.ROLLOUT

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return self.gate.needs | {"sampler", "behavior"}

    def __call__(self, inputs: PartInputs, ratio: Tensor, advantage: Tensor) -> Tensor:
        log_gap = inputs.tokens.behavior - inputs.tokens.sampler
        if self.mode.startswith("sequence"):
            log_gap = inputs.spread(inputs.sample_sum(log_gap, self.source))
        weight = log_gap.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
        bounded = weight.clamp(max=self.cap)
        if self.mode.endswith("mask"):
            bounded = weight.where(weight <= self.cap, weight.new_zeros(()))
        return self.gate(inputs, ratio, advantage) * bounded
