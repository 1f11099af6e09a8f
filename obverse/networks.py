"""The networks of a run: the policy, and whichever of anchor, critic and reward model somebody reads."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from obverse.adapters import is_adapter
from obverse.adapters.lora import frozen, load_adapted, without
from obverse.config import TrainConfig
from obverse.course import Course
from obverse.errors import CheckpointError, ConfigError
from obverse.loading import load, load_scalar
from obverse.model import Policy, as_policy, with_checkpoints
from obverse.requirements import samples_initial
from obverse.scorer import RewardModel
from obverse.text import Renderer


@dataclass(frozen=True)
class Networks:
    """What was loaded; None where nobody reads it."""

    policy: Policy
    tokenizer: Any
    anchor: Policy | None  # the initial model, frozen
    critic: Any
    table: torch.nn.Module | None  # the initial model's embeddings, frozen


def load_networks(config: TrainConfig, course: Course, start: Path | None) -> Networks:
    """Load what the course's methods need; from the checkpoint `start` what has learned since."""
    source = str(start) if start else config.model
    if not all(method.trains_policy for method in course.methods):
        model, tokenizer = load_scalar(source, config.dtype, config.device)
        return Networks(Policy(model, head=None), tokenizer, None, None, None)
    policy, tokenizer = _policy(config, start)
    anchor = critic = table = None
    if any(method.needs("anchor") or samples_initial(method) for method in course.methods):
        anchor = _initial(config, policy, tokenizer, start)
    if any(method.critic is not None for method in course.methods):
        critic, _ = load_scalar(str(start / "critic") if start else config.model, config.dtype, config.device)
    if any(method.inputs is not None for method in course.methods):
        table = _table(config, policy, start)
    if config.gradient_checkpointing:
        policy = with_checkpoints(policy)
    return Networks(policy, tokenizer, anchor, critic, table)


def _policy(config: TrainConfig, start: Path | None) -> tuple[Policy, Any]:
    """What learns, and its tokenizer."""
    if config.use_peft:
        return load_adapted(config, start)
    if start and is_adapter(start):
        raise CheckpointError(f"checkpoint {start} holds an adapter and no whole model: add use_peft")
    return load(str(start) if start else config.model, config.dtype, config.device, trains=True)


def _table(config: TrainConfig, policy: Policy, start: Path | None) -> torch.nn.Module:
    """The initial model's embeddings; under adapters they are the policy's own, which never move."""
    if policy.adapter is not None:
        table: torch.nn.Module = policy.model.get_input_embeddings()
        return table
    first = load(config.model, config.dtype, config.device, trains=True)[0] if start else policy
    return deepcopy(first.model.get_input_embeddings()).requires_grad_(False)


def _initial(config: TrainConfig, policy: Policy, tokenizer: Any, start: Path | None) -> Policy:
    """The frozen model that KL, DPO and the like compare with."""
    if config.anchor_model is not None:
        anchor, own = load(config.anchor_model, config.dtype, config.device, trains=True)
        if own.get_vocab() != tokenizer.get_vocab():
            raise ConfigError(f"--anchor_model: {config.anchor_model} has another vocabulary than {config.model}")
        return anchor
    if policy.adapter is not None:
        return without(policy)
    if start:
        return load(config.model, config.dtype, config.device, trains=True)[0]
    return as_policy(deepcopy(policy.model), policy.mixed)


def stage_anchor(config: TrainConfig, policy: Policy, folder: Path | None = None) -> Policy:
    """The frozen initial model of a stage that began later: the policy as it is now, or as `folder` has it."""
    if policy.adapter is not None:
        return frozen(policy, folder)
    if folder is not None:
        return load(str(folder), config.dtype, config.device, trains=True)[0]
    return as_policy(deepcopy(policy.model), policy.mixed)


def load_scorer(config: TrainConfig, tokenizer: Any) -> RewardModel | None:
    """The reward model that grades own samples; ConfigError when it is none."""
    if config.reward_model is None:
        return None
    model, own = load_scalar(config.reward_model, config.dtype, config.device, trained=True)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    renderer = Renderer(own, config.chat_template, config.system_prompt, None)
    at_once = config.tokens_at_once(model.device.type)
    return RewardModel(model, renderer, own.get_vocab() == tokenizer.get_vocab(), at_once)
