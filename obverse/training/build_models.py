"""The networks of a run: the policy, and whichever of anchor, critic and reward model somebody reads."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from obverse.config.train import TrainConfig
from obverse.data.renderer import Renderer
from obverse.distributed.fsdp import ShardingOptions, fsdp_forward, shard
from obverse.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from obverse.errors import CheckpointError, ConfigError
from obverse.estimator.requests import samples_initial
from obverse.estimator.schedule import TrainingSchedule
from obverse.models.adapter_io import is_adapter
from obverse.models.checkpoint_weights import unused
from obverse.models.load import load, load_scalar
from obverse.models.lora import frozen, load_adapted, without
from obverse.models.policy import Policy, as_policy, with_checkpoints, with_compiled_layers
from obverse.models.position_limits import num_positions
from obverse.models.reward_model import RewardModel


@dataclass(frozen=True)
class TrainingModels:
    """What was loaded; None where nobody reads it."""

    policy: Policy
    tokenizer: Any
    anchor: Policy | None  # the initial model, frozen
    critic: Any
    table: torch.nn.Module | None  # the initial model's embeddings, frozen

    def text_models(self, config: TrainConfig) -> dict[str, Any]:
        """The models that may read the run's texts to different lengths, by what messages call them."""
        others = {"the initial model": self.anchor.model} if self.anchor and config.anchor_model else {}
        return {"the model": self.policy.model, **others}

    def unused_weights(self, scorer: RewardModel | None) -> list[str]:
        """A sentence for each model whose files have weights that nothing reads."""
        models = (self.policy.model, self.anchor and self.anchor.model, self.critic, scorer and scorer.model)
        return list(dict.fromkeys(sentence for model in models if model is not None and (sentence := unused(model))))


def load_models(
    config: TrainConfig, schedule: TrainingSchedule, start: Path | None, process_group: ProcessGroup = SINGLE_PROCESS
) -> TrainingModels:
    """Load what the course's methods need; from the checkpoint `start` what has learned since."""
    source = str(start) if start else config.model
    if not all(method.trains_policy for method in schedule.methods):
        model, tokenizer = _scalar(config, source, process_group)
        return TrainingModels(Policy(model, head=None), tokenizer, None, None, None)
    policy, tokenizer = _policy(config, start, process_group)
    anchor = critic = table = None
    if any(method.needs("anchor") or samples_initial(method) for method in schedule.methods):
        anchor = _initial(config, policy, tokenizer, start, process_group)
    if any(method.critic is not None for method in schedule.methods):
        critic, _ = _scalar(config, str(start / "critic") if start else config.model, process_group)
    if any(method.inputs is not None for method in schedule.methods):
        table = _table(config, policy, start, process_group)
    if config.gradient_checkpointing:
        policy = with_checkpoints(policy)
    if config.torch_compile:
        policy = with_compiled_layers(policy)
    return TrainingModels(policy, tokenizer, anchor, critic, table)


def _policy(config: TrainConfig, start: Path | None, process_group: ProcessGroup) -> tuple[Policy, Any]:
    """What learns, and its tokenizer."""
    if config.use_peft:
        return load_adapted(config, start)
    if start and is_adapter(start):
        raise CheckpointError(f"checkpoint {start} holds an adapter and no whole model: add use_peft")
    return load_policy(config, str(start) if start else config.model, process_group)


def _table(config: TrainConfig, policy: Policy, start: Path | None, process_group: ProcessGroup) -> torch.nn.Module:
    """The initial model's embeddings; under adapters they are the policy's own, which never move."""
    if policy.adapter is not None:
        table: torch.nn.Module = policy.model.get_input_embeddings()
        return table
    model = load_policy(config, config.model, process_group)[0].model if start else policy.model
    copied: torch.nn.Module = fsdp_forward(model, lambda: deepcopy(model.get_input_embeddings()))
    return copied.requires_grad_(False)


def load_policy(config: TrainConfig, source: str, process_group: ProcessGroup) -> tuple[Policy, Any]:
    """A policy as this run holds one: shared out over the ranks, or whole on each."""
    if not is_sharded(config, process_group):
        return load(source, config.dtype, config.device, trains=True, positions=config.positions)
    policy, tokenizer = load(
        source, config.dtype, config.device, trains=True, process_group=process_group, positions=config.positions
    )
    shard(policy.model, _sharing(config, process_group, policy.mixed))
    return replace(policy, shares=False, mixed=False), tokenizer  # its weights are in bfloat16 where they are whole


def is_sharded(config: TrainConfig, process_group: ProcessGroup) -> bool:
    """Whether the run's networks are shared out over the ranks."""
    return config.fsdp and not process_group.is_alone


def _scalar(config: TrainConfig, source: str, process_group: ProcessGroup, trained: bool = False) -> tuple[Any, Any]:
    """A critic or a reward model, held as the policy is; `trained`: one that learns no more."""
    positions = {} if trained else config.positions
    if not is_sharded(config, process_group):
        model, tokenizer = load_scalar(source, config.dtype, config.device, trained, positions=positions)
        return model.requires_grad_(not trained), tokenizer
    model, tokenizer = load_scalar(source, config.dtype, config.device, trained, process_group, positions)
    shard(model.requires_grad_(not trained), _sharing(config, process_group, mixed=False))
    return model, tokenizer


def _sharing(config: TrainConfig, process_group: ProcessGroup, mixed: bool) -> ShardingOptions:
    return ShardingOptions(process_group, config.fsdp_reshard_after_forward, config.fsdp_offload_params, mixed)


def refuse_unsupported_sharding(config: TrainConfig, process_group: ProcessGroup) -> None:
    """Raise ConfigError for ways to share out that cannot be, or would be of no use."""
    if config.fsdp and config.use_peft:
        raise ConfigError("--fsdp shares whole policies out: leave it out with --use_peft, whose base all ranks have")
    if config.use_peft and config.positions:
        raise ConfigError(
            f"--{min(config.positions)} changes the base, which an adapter's folder only names: change its config.json "
            "in a folder of your own, or train without --use_peft"
        )
    if config.router_aux_loss_coef and (config.fsdp or config.torch_compile):
        raise ConfigError(
            "--router_aux_loss_coef reads what routers say on the way, which is not possible in layers that are "
            "shared out or compiled: leave --fsdp and --torch_compile out"
        )
    if is_sharded(config, process_group) and config.fsdp_offload_params and process_group.device.type == "cpu":
        raise ConfigError("--fsdp_offload_params: on a CPU the shares are in its memory already: leave it out")


def _initial(
    config: TrainConfig, policy: Policy, tokenizer: Any, start: Path | None, process_group: ProcessGroup
) -> Policy:
    """The frozen model that KL, DPO and the like compare with."""
    if config.anchor_model is not None:
        anchor, own = load_policy(config, config.anchor_model, process_group)
        if own.get_vocab() != tokenizer.get_vocab():
            raise ConfigError(f"--anchor_model: {config.anchor_model} has another vocabulary than {config.model}")
        return anchor
    if policy.adapter is not None:
        return without(policy)
    if start or is_sharded(config, process_group):
        return load_policy(config, config.model, process_group)[0]
    return as_policy(deepcopy(policy.model), policy.mixed)


def stage_anchor(
    config: TrainConfig, policy: Policy, process_group: ProcessGroup, folder: Path, is_resumed: bool = False
) -> Policy:
    """The frozen initial model of a stage that began later: the policy as it is now, or then, as `folder` has it."""
    if policy.adapter is not None:
        return frozen(policy, folder if is_resumed else None)
    if is_resumed or is_sharded(config, process_group):
        return load_policy(config, str(folder), process_group)[0]
    return as_policy(deepcopy(policy.model), policy.mixed)


def load_reward_model(
    config: TrainConfig, tokenizer: Any, process_group: ProcessGroup = SINGLE_PROCESS
) -> RewardModel | None:
    """The reward model that grades own samples; ConfigError when it is none."""
    if config.reward_model is None:
        return None
    model, own = _scalar(config, config.reward_model, process_group, trained=True)
    renderer = Renderer.of(own, config, None)
    at_once = config.tokens_at_once(
        process_group.device.type if is_sharded(config, process_group) else model.device.type
    )
    longest = fsdp_forward(model, lambda: num_positions(model))
    return RewardModel(model, renderer, own.get_vocab() == tokenizer.get_vocab(), at_once, longest)
