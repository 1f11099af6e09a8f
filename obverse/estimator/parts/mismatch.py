"""Correction of the difference between the log-probs of the sampler and of the trainer for one policy."""

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
    """Another mask times u, u = pi_old / mu bounded by `cap`; mu is from the sampler, pi_old from the trainer.

    `truncate` takes min(u, cap), `mask` takes 0 in place of u > cap; `sequence` has one u per sample, the product over
    its tokens; [T]. Source: truncated importance sampling, 1802.01561, and TRL's names for its variants.
    """

    mask: Mask
    mode: Correction = "token_truncate"
    cap: float = 2.0
    source: Source = Source.ROLLOUT

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return self.mask.needs | {"sampler", "behavior"}

    def __call__(self, inputs: PartInputs, ratio: Tensor, advantage: Tensor) -> Tensor:
        log_gap = inputs.tokens.behavior - inputs.tokens.sampler
        if self.mode.startswith("sequence"):
            log_gap = inputs.spread(inputs.sample_sum(log_gap, self.source))
        weight = log_gap.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
        bounded = weight.clamp(max=self.cap)
        if self.mode.endswith("mask"):
            bounded = weight.where(weight <= self.cap, weight.new_zeros(()))
        return self.mask(inputs, ratio, advantage) * bounded
