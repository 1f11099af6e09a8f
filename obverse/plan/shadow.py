"""The networks of a run as shadows: made from configurations alone, with shapes and no numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from obverse.config import TrainConfig
from obverse.course import Course
from obverse.loading import local_config, weights_dtype
from obverse.model import Policy, as_policy, with_checkpoints
from obverse.requirements import samples_initial
from obverse.vocabulary import Gradients, Workspace


@dataclass(frozen=True)
class Shadows:
    """What `networks.load_networks` would load; None where nobody reads it.

    With `kept_wide` a rank keeps its share in float32 and computes with the bfloat16 copies that these are.
    """

    policy: Policy
    anchor: Policy | None = None
    critic: Any = None
    scorer: Any = None
    kept_wide: bool = False


def shadows(config: TrainConfig, course: Course, device: str, shared_out: bool) -> Shadows:
    """The networks of a run, inside an open ledger. ConfigError where a model's configuration is not at hand."""
    if not all(method.trains_policy for method in course.methods):
        return Shadows(Policy(_scalar(config.model, weights_dtype(config.dtype, device), config.positions), head=None))
    dtype = weights_dtype(config.dtype, device, trains=not config.use_peft)
    is_mixed = config.dtype == "mixed" or (config.dtype == "auto" and device != "cpu" and not config.use_peft)
    is_cast = is_mixed and shared_out  # layers are gathered in bfloat16, in place of a cast for every product
    policy = as_policy(
        _writer(config.model, torch.bfloat16 if is_cast else dtype, config.positions), is_mixed and not is_cast
    )
    anchor = critic = scorer = None
    reads_initial = any(method.needs("anchor") or samples_initial(method) for method in course.methods)
    if reads_initial and (config.anchor_model is not None or not config.use_peft):
        anchor = as_policy(_writer(config.anchor_model or config.model, policy.model.dtype), policy.mixed)
        anchor.model.requires_grad_(False)
    if any(method.critic is not None for method in course.methods):
        critic = _scalar(config.model, _scalar_dtype(config.dtype), config.positions)
    if config.reward_model is not None:
        scorer = _scalar(config.reward_model, _scalar_dtype(config.dtype)).requires_grad_(False)
    if config.use_peft:
        policy = _adapted(policy, config)
    if config.gradient_checkpointing:
        policy = with_checkpoints(policy)
    if shared_out:
        policy = replace(policy, shares=False)
    return Shadows(_with_quick_head(policy), anchor and _with_quick_head(anchor), critic, scorer, is_cast)


def _writer(name: str, dtype: torch.dtype, positions: Mapping[str, float] | None = None) -> Any:
    return AutoModelForCausalLM.from_config(local_config(name, positions), dtype=dtype).eval()


def _scalar(name: str, dtype: torch.dtype, positions: Mapping[str, float] | None = None) -> Any:
    config = local_config(name, positions)
    config.num_labels = 1
    return AutoModelForSequenceClassification.from_config(config, dtype=dtype).eval()


def _scalar_dtype(dtype: str) -> torch.dtype:
    kind: torch.dtype = torch.float32 if dtype in ("auto", "mixed") else getattr(torch, dtype)
    return kind


def _adapted(policy: Policy, config: TrainConfig) -> Policy:
    """The policy with low-rank adapters beside frozen weights."""
    import peft  # a second that only adapters should cost, and an extra of the installation

    made = peft.LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        target_modules=list(config.lora_target_modules) or "all-linear",
        use_rslora=config.use_rslora,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(policy.model, made).base_model.model
    return replace(policy, model=model, table=None)


class QuickHead(torch.autograd.Function):
    """The buffers of `vocabulary.Scores` without its walk over the vocabulary: [T, 1] from states [T, H]."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, matrix: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(states, matrix)
        ctx.size = size
        Workspace(states, matrix.to(states.dtype), size)
        return states.new_zeros(len(states), 1)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        states, matrix = ctx.saved_tensors
        head, home = matrix.to(states.dtype), matrix if matrix.requires_grad else None
        gradients = Gradients(states, head, matrix.dtype, home)
        work = Workspace(states, head, ctx.size)
        gradients.add(slice(0, len(work.logits)), work.logits, states.new_ones(len(work.logits)))
        return gradients.states, None, None


def _with_quick_head(policy: Policy) -> Policy:
    matrix, size = policy.matrix, policy.tokens_at_once
    if matrix is None:
        return policy
    return replace(policy, matrix=None, head=lambda states: QuickHead.apply(states, matrix, size))  # type: ignore[no-untyped-call]
