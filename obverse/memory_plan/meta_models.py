"""The models of a run as fake tensors, built from their configurations alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from obverse.config.train import TrainConfig
from obverse.estimator.method import Method
from obverse.estimator.requests import samples_initial
from obverse.estimator.schedule import TrainingSchedule
from obverse.inference.conformance import decode_path
from obverse.inference.decode_paths import DecodePath
from obverse.models.conformance import Capabilities
from obverse.models.load import local_config, require_scalar_class, weights_dtype, with_plain_experts
from obverse.models.logit_chunks import Gradients, Workspace, accumulates_in_place
from obverse.models.lora_targets import linear_layers, targets
from obverse.models.policy import Policy, as_policy, capabilities_of, with_checkpoints


@dataclass(frozen=True)
class MetaModels:
    """The models that `obverse.training.build_models` would load; None for those that a run does not need.

    With `stores_float32` a rank stores its shard in float32 and computes with bfloat16 copies, which these models are.
    """

    policy: Policy
    anchor: Policy | None = None
    critic: Any = None
    scorer: Any = None
    teachers: tuple[Policy, ...] = ()  # other models, frozen
    average: Policy | None = None  # the moving average of whole weights; an adapter's average is no model of its own
    stores_float32: bool = False

    def teachers_of(self, method: Method) -> tuple[Policy, ...]:
        """The models in this process that a method's teacher may be."""
        if method.teacher is None:
            return ()
        of_run = {"policy": self.policy, "initial": self.anchor or self.policy, "average": self.average or self.policy}
        return self.teachers if method.teacher.who == "model" else (of_run[method.teacher.who],)


def policy_capabilities(config: TrainConfig, schedule: TrainingSchedule) -> dict[str, Capabilities]:
    """The capabilities of language models, by name; tested outside a tracker, as tests need numbers."""
    if not all(method.trains_policy for method in schedule.methods):
        return {}
    by_name = {}
    for name in (config.model, config.anchor_model, *config.teacher_models.values()):
        if name is not None and name not in by_name:
            by_name[name] = capabilities_of(_outline(name, config))
    return by_name


def _outline(name: str, config: TrainConfig) -> Any:
    """A model with meta tensors, outside a tracker."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(local_config(name, config.positions)).eval()


def num_parameters(config: TrainConfig) -> int | None:
    """The number of the policy's parameters; None where its configuration is not on this machine or is invalid."""
    try:
        return sum(weight.numel() for weight in _outline(config.model, config).parameters())
    except Exception:  # noqa: BLE001 - of an invalid configuration, which the plan reports
        return None


def policy_decode_path(config: TrainConfig) -> DecodePath:
    """How completions of the policy are decoded; tested outside a tracker. Raises ConfigError if they cannot be."""
    return decode_path(_outline(config.model, config))


def build_meta_models(
    config: TrainConfig,
    schedule: TrainingSchedule,
    device: str,
    shared_out: bool,
    capabilities: Mapping[str, Capabilities],
) -> MetaModels:
    """The models of a run, inside an open tracker; `capabilities` is the result of `policy_capabilities`.

    Raises ConfigError for a model whose configuration is not on this machine.
    """
    if not all(method.trains_policy for method in schedule.methods):
        return MetaModels(
            Policy(_scalar(config.model, weights_dtype(config.dtype, device), config.positions), head=None)
        )
    dtype = weights_dtype(config.dtype, device, trains=not config.use_peft)
    is_mixed = config.dtype == "mixed" or (config.dtype == "auto" and device != "cpu" and not config.use_peft)
    is_cast = is_mixed and shared_out  # FSDP gathers layers in bfloat16, so that products need no cast
    dtype, is_mixed = (torch.bfloat16, False) if is_cast else (dtype, is_mixed)
    policy = _policy(config.model, config, dtype, is_mixed, capabilities)
    anchor = critic = scorer = None
    reads_initial = any(method.reads_anchor or samples_initial(method) for method in schedule.methods)
    if reads_initial and (config.anchor_model is not None or not config.use_peft):
        anchor = _policy(config.anchor_model or config.model, config, dtype, is_mixed, capabilities)
        anchor.model.requires_grad_(False)
    if any(method.critic is not None for method in schedule.methods):
        critic = _scalar(config.model, _scalar_dtype(config.dtype), config.positions)
    teachers, average = _teachers(config, schedule, device, capabilities, dtype, is_mixed)
    if config.reward_model is not None:
        scorer = _scalar(config.reward_model, _scalar_dtype(config.dtype)).requires_grad_(False)
    if config.use_peft:
        policy = _adapted(policy, config)
    if config.gradient_checkpointing:
        policy = with_checkpoints(policy)
    if shared_out:
        policy = replace(policy, shares=False)
    return MetaModels(
        _with_quick_head(policy),
        anchor and _with_quick_head(anchor),
        critic,
        scorer,
        tuple(_with_quick_head(replace(teacher, shares=teacher.shares and not shared_out)) for teacher in teachers),
        average and _with_quick_head(average),
        is_cast,
    )


def _teachers(
    config: TrainConfig,
    schedule: TrainingSchedule,
    device: str,
    capabilities: Mapping[str, Capabilities],
    dtype: torch.dtype,
    is_mixed: bool,
) -> tuple[list[Policy], Policy | None]:
    """The teachers that are other models, each once, and the average of the policy's whole weights."""
    frozen = weights_dtype(config.dtype, device, trains=False)
    names = dict.fromkeys(config.teacher_models.values())
    teachers = [_policy(name, config, frozen, config.dtype == "mixed", capabilities) for name in names]
    who = {method.teacher.who for method in schedule.methods if method.teacher is not None}
    average = None
    if "average" in who and not config.use_peft:
        average = _policy(config.model, config, dtype, is_mixed, capabilities)
    for teacher in (*teachers, average):
        if teacher is not None:
            teacher.model.requires_grad_(False)
    return teachers, average


def _policy(
    name: str, config: TrainConfig, dtype: torch.dtype, mixed: bool, capabilities: Mapping[str, Capabilities]
) -> Policy:
    """The policy of a model, as `as_policy` builds it."""
    model = AutoModelForCausalLM.from_config(local_config(name, config.positions), dtype=dtype)
    return as_policy(with_plain_experts(model), mixed, capabilities[name])


def _scalar(name: str, dtype: torch.dtype, positions: Mapping[str, float] | None = None) -> Any:
    config = local_config(name, positions)
    require_scalar_class(name, config)
    config.num_labels = 1
    return with_plain_experts(AutoModelForSequenceClassification.from_config(config, dtype=dtype)).eval()


def _scalar_dtype(dtype: str) -> torch.dtype:
    kind: torch.dtype = torch.float32 if dtype in ("auto", "mixed") else getattr(torch, dtype)
    return kind


class Adapted(torch.nn.Module):
    """A frozen linear layer with a low-rank adapter, computed as in PEFT."""

    def __init__(self, base: torch.nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down = torch.nn.Parameter(torch.zeros(rank, base.in_features))
        self.up = torch.nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, states: Tensor) -> Tensor:
        out: Tensor = self.base(states)
        added = linear(linear(states.to(self.down.dtype), self.down), self.up) * 2.0
        return (out + added).to(out.dtype)


def _adapted(policy: Policy, config: TrainConfig) -> Policy:
    """The frozen policy with trained adapters on the linear layers that get them in a run."""
    model = policy.model.requires_grad_(False)
    layers, target = linear_layers(model), targets(model, config)
    for name, layer in layers.items():
        if isinstance(layer, torch.nn.Linear) and target.includes(name):
            parent, _, end = name.rpartition(".")
            setattr(model.get_submodule(parent), end, Adapted(layer, config.lora_r))
    return policy


class QuickHead(torch.autograd.Function):
    """Allocates the buffers of `fused_logprobs.Scores` without its loop over chunks: [T, 1] from states [T, H]."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, matrix: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(states)
        ctx.matrix, ctx.size = (
            matrix,
            size,
        )  # not saved for backward: a checkpoint would return a copy that is no parameter
        Workspace(states, matrix.to(states.dtype), size)
        return states.new_zeros(len(states), 1)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        (states,), matrix = ctx.saved_tensors, ctx.matrix
        head, home = matrix.to(states.dtype), matrix if accumulates_in_place(matrix) else None
        gradients = Gradients(states, head, matrix.dtype, home, matrix.requires_grad)
        work = Workspace(states, head, ctx.size)
        gradients.add(slice(0, len(work.logits)), work.logits, states.new_ones(len(work.logits)))
        return gradients.states, gradients.matrix if home is None else None, None


def _with_quick_head(policy: Policy) -> Policy:
    matrix, size = policy.matrix, policy.tokens_at_once
    if matrix is None:
        return policy
    return replace(policy, layer=None, head=lambda states: QuickHead.apply(states, matrix, size))  # type: ignore[no-untyped-call]
