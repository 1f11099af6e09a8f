"""2601.20802's loss on the sampled token, and its weighted divergence; the samples without a target are not here."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def sampled(cap: float | None) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for _, mask in data.rows(Source.ROLLOUT):
            logp = data.logp[mask]
            loss = (logp - data.tokens.teacher[mask]).detach() * logp
            if cap is not None:
                loss = loss * torch.exp(logp - data.tokens.behavior[mask]).detach().clamp(max=cap)
            total = total + loss.sum()
            num_tokens += len(logp)
        return total / num_tokens

    return literal


def compared(cap: float | None) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        mask = data.mask(Source.ROLLOUT)
        ratio = torch.exp(data.logp - data.tokens.behavior).detach()[mask]
        weight = torch.ones_like(ratio) if cap is None else ratio.clamp(max=cap)
        return (weight * data.divergence[mask]).sum() / mask.sum()

    return literal


CASES = [
    ({}, sampled(2.0)),
    ({"distillation_is_clip": None, "include_environment_feedback": True}, sampled(None)),
    ({"distillation_mode": "topk_logits"}, compared(2.0)),
]
