"""The KL divergence between sampler and trainer, which must have the same log-probs for a token just sampled.

A sampler that reports another distribution (another temperature, other weights, other kernels) makes every importance
ratio of the run wrong, and no other figure shows it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from obverse.distributed.fsdp import fsdp_forward
from obverse.errors import DivergedError
from obverse.estimator.tables import LOG_RATIO_LIMIT
from obverse.inference import SamplingParams
from obverse.inference.distribution import sampling_log_probs
from obverse.models.batch import Micro
from obverse.models.policy import Policy, logits
from obverse.runtime.callbacks import Watcher

WARN_AT = 1e-3  # nats per token: rounding in float32 gives 1e-9, another program in bfloat16 about 5e-4
EXCLUDED_TOKEN_KL = 1.0  # nats for a token that the trainer's top_k or top_p excludes: one in a hundred ends a run


class MismatchCheck:
    """Checks the figure `mismatch_kl`: one warning per run above WARN_AT, an error above `limit` (None: no error)."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.has_warned = False

    def check(self, figures: Mapping[str, float], watcher: Watcher) -> None:
        """Raise DivergedError where `mismatch_kl` of an update is above the limit.

        An update with a loss that is not finite is not checked: the optimizer skips and counts it.
        """
        mismatch_kl = figures.get("mismatch_kl", 0.0)
        if mismatch_kl <= WARN_AT or not math.isfinite(figures["loss"]):
            return
        message = (
            f"the sampler's log-probs differ from the trainer's: mismatch_kl is {mismatch_kl:.2g} nats per token on "
            "samples that the policy has just drawn"
        )
        if self.limit is not None and mismatch_kl > self.limit:
            raise DivergedError(
                f"{message}, above --max_mismatch_kl {self.limit:g}; the step was discarded: correct the sampler (it "
                "must have the policy's weights, temperature, top_p, top_k and number type), or raise the limit"
            )
        if not self.has_warned:
            self.has_warned = True
            watcher.note(f"{message}: importance ratios are off by as much")


def kl_per_token(trained: Tensor, sampled: Tensor) -> Tensor:
    """KL(sampler || trainer) estimated from log-probs of tokens that the sampler drew; float64 [T], one term per token.

    exp(r) - 1 - r with r = trainer - sampler (Schulman, Approximating KL divergence, 2020, k3): unbiased, never
    negative. A token with probability 0 under the trainer counts EXCLUDED_TOKEN_KL: rounding moves the limits of top_k
    and top_p.
    """
    ratio = (trained.double() - sampled.double()).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return (ratio.expm1() - ratio).where(trained != -torch.inf, ratio.new_tensor(EXCLUDED_TOKEN_KL))


@torch.no_grad()
def logprobs_under(policy: Policy, micro: Micro, params: SamplingParams) -> Tensor:
    """Log-probs of a micro batch's tokens under sampling parameters; -inf for tokens that they exclude; float32 [T]."""
    with policy.computing():
        rows = fsdp_forward(
            policy.model, lambda: torch.cat([sampling_log_probs(part, params) for part in logits(policy, micro)])
        )
    return rows.gather(-1, micro.target[:, None])[:, 0]
