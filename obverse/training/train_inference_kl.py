"""Whether sampler and trainer mean the same policy: their log-probs of a token it has just drawn must be equal.

A sampler that reports another distribution (another temperature, other weights, other kernels) makes every ratio of the
run wrong, and nothing else shows it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from obverse.distributed.fsdp import inside
from obverse.errors import DivergedError
from obverse.estimator.tables import LOG_RATIO_LIMIT
from obverse.inference import SamplingParams
from obverse.inference.distribution import sampling_log_probs
from obverse.models.batch import Micro
from obverse.models.policy import Policy, logits
from obverse.runtime.callbacks import Watcher
from obverse.training.metrics import Row

WARN_AT = 1e-3  # nats per token: rounding in float32 gives 1e-9, another program in bfloat16 about 5e-4
CUT_AWAY = 1.0  # nats that a token counts which the trainer's law cuts away: one in a hundred of them ends a run


class MismatchCheck:
    """What a run does about the figure `mismatch_kl`: it says so once, and ends above `limit` (None: never)."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.is_told = False

    def check(self, figures: Row, watcher: Watcher) -> None:
        """Raise DivergedError where the figure of an update is above the limit.

        An update whose loss is not finite is not taken, and counted elsewhere.
        """
        found = figures.get("mismatch_kl", 0.0)
        if found <= WARN_AT or not math.isfinite(figures["loss"]):
            return
        told = (
            f"the sampler's log-probs are not the trainer's: mismatch_kl is {found:.2g} nats a token on samples that "
            "the policy has just drawn"
        )
        if self.limit is not None and found > self.limit:
            raise DivergedError(
                f"{told}, above --max_mismatch_kl {self.limit:g}; nothing of this step is kept: mend the "
                "sampler (it must have the policy's weights, temperature, top_p, top_k and number type), or allow more"
            )
        if not self.is_told:
            self.is_told = True
            watcher.note(f"{told}: ratios of policy to sampler are off by as much")


def divergence(trained: Tensor, sampled: Tensor) -> Tensor:
    """KL(sampler || trainer) from log-probs of tokens that the sampler drew, each token's share of it; float64 [T].

    exp(r) - 1 - r with r = trainer - sampler (Schulman, Approximating KL divergence, 2020, k3): unbiased, never
    negative. A token that the trainer gives no probability counts CUT_AWAY: borders of a law move with the rounding.
    """
    ratio = (trained.double() - sampled.double()).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return (ratio.expm1() - ratio).where(trained != -torch.inf, ratio.new_tensor(CUT_AWAY))


@torch.no_grad()
def logprobs_under(policy: Policy, micro: Micro, params: SamplingParams) -> Tensor:
    """Log-probs of a micro batch's tokens under a law that cuts some away; -inf for those; float32 [T]."""
    with policy.computing():
        rows = inside(
            policy.model, lambda: torch.cat([sampling_log_probs(part, params) for part in logits(policy, micro)])
        )
    return rows.gather(-1, micro.target[:, None])[:, 0]
