"""The exponential moving average of the policy's weights, as a teacher (SDPO 2601.20802, SDFT 2601.19897)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from obverse.distributed.fsdp import local_rows, reshard
from obverse.models.policy import Policy


@dataclass(frozen=True)
class WeightAverage:
    """A second copy of what the policy trains, the model or its adapter, that follows it.

    Stored in the type of the policy's weights. In bfloat16 (--dtype bfloat16) small steps are lost in rounding.
    """

    policy: Policy
    teacher: Policy
    rate: float  # share of the policy in the average after each optimizer step

    @torch.no_grad()
    def update(self) -> None:
        """theta_T <- (1 - rate) theta_T + rate theta, after an optimizer step that was taken."""
        for average, weight in self._pairs():
            average.lerp_(weight, self.rate)

    @torch.no_grad()
    def restart(self) -> None:
        """Copy the policy's weights: the average begins anew, as at the start of a later stage."""
        for average, weight in self._pairs():
            average.copy_(weight)

    def _pairs(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """This rank's rows of each weight of the average and of the policy."""
        reshard(self.policy.model)
        reshard(self.teacher.model)
        averages, weights = self.teacher.savable.parameters(), self.policy.savable.parameters()
        return [(local_rows(average), local_rows(weight)) for average, weight in zip(averages, weights, strict=True)]
