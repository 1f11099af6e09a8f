"""Load the models of a run: the policy, and those of anchor, critic and reward model that its methods use."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
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
from obverse.models.load import load, load_scalar
from obverse.models.lora import frozen, load_adapted, without
from obverse.models.policy import Policy, as_policy, with_checkpoints, with_compiled_layers
from obverse.models.position_limits import num_positions
from obverse.models.reward_model import RewardModel
from obverse.training.teacher_models import refuse_other_tokenizer

AVERAGE = "teacher"  # the folder of the moving average in a checkpoint


@dataclass(frozen=True)
class TrainingModels:
    """The models of a run; None for a model that no method uses."""

    policy: Policy
    tokenizer: Any
    anchor: Policy | None  # the initial model, frozen
    critic: Any
    table: torch.nn.Module | None  # the initial model's embeddings, frozen
    critic_unused_weights: str | None = None  # a message about weights in its files that the critic does not use
    teachers: Mapping[str, Policy] = field(default_factory=dict)  # other models, by the field's value; "": the only one
    average: Policy | None = None  # the moving average of the policy's weights

    def text_models(self, config: TrainConfig) -> dict[str, Any]:
        """The models that may differ in the longest text they read, by their names in messages."""
        anchor = {"the initial model": self.anchor.model} if self.anchor and config.anchor_model else {}
        return {"the model": self.policy.model, **anchor}

    def teacher_models(self, schedule: TrainingSchedule) -> dict[str, Any]:
        """The models that read teachers' prompts, by their names in messages."""
        who = {method.teacher.who for method in schedule.methods if method.teacher is not None}
        others = {f"the teacher {name}".strip(): policy.model for name, policy in self.teachers.items()}
        return others | ({"the teacher": self.policy.model} if who - {"model"} else {})

    def unused_weights(self, scorer: RewardModel | None) -> list[str]:
        """A message for each model that does not use all weights in its files."""
        messages = (
            self.policy.unused_weights,
            self.anchor and self.anchor.unused_weights,
            self.critic_unused_weights,
            scorer and scorer.unused_weights,
            *(teacher.unused_weights for teacher in self.teachers.values()),
        )
        return list(dict.fromkeys(message for message in messages if message))


def load_models(
    config: TrainConfig, schedule: TrainingSchedule, start: Path | None, process_group: ProcessGroup = SINGLE_PROCESS
) -> TrainingModels:
    """Load the models that the schedule's methods use; trained models from the checkpoint `start` if given."""
    source = str(start) if start else config.model
    if not all(method.trains_policy for method in schedule.methods):
        model, tokenizer, unused = _scalar(config, source, process_group)
        return TrainingModels(Policy(model, head=None, unused_weights=unused), tokenizer, None, None, None)
    policy, tokenizer = _policy(config, start, process_group)
    anchor = critic = table = critic_unused = average = None
    if any(method.reads_anchor or samples_initial(method) for method in schedule.methods):
        anchor = _initial(config, policy, tokenizer, start, process_group)
    if any(method.critic is not None for method in schedule.methods):
        critic, _, critic_unused = _scalar(config, str(start / "critic") if start else config.model, process_group)
    if any(method.inputs is not None for method in schedule.methods):
        table = _table(config, policy, start, process_group)
    who = {method.teacher.who for method in schedule.methods if method.teacher is not None}
    teachers = load_teachers(config, tokenizer, process_group) if "model" in who else {}
    if "average" in who:
        average = _average(config, policy, start, process_group)
    if config.gradient_checkpointing:
        policy = with_checkpoints(policy)
    if config.torch_compile:
        policy = with_compiled_layers(policy)
    return TrainingModels(policy, tokenizer, anchor, critic, table, critic_unused, teachers, average)


def _policy(config: TrainConfig, start: Path | None, process_group: ProcessGroup) -> tuple[Policy, Any]:
    """The trained policy and its tokenizer."""
    if config.use_peft:
        return load_adapted(config, start)
    if start and is_adapter(start):
        raise CheckpointError(f"checkpoint {start} is an adapter, not a whole model: add use_peft")
    return load_policy(config, str(start) if start else config.model, process_group)


def _table(config: TrainConfig, policy: Policy, start: Path | None, process_group: ProcessGroup) -> torch.nn.Module:
    """The initial model's embeddings; with adapters those of the policy, which are frozen."""
    if policy.adapter is not None:
        table: torch.nn.Module = policy.model.get_input_embeddings()
        return table
    model = load_policy(config, config.model, process_group)[0].model if start else policy.model
    copied: torch.nn.Module = fsdp_forward(model, lambda: deepcopy(model.get_input_embeddings()))
    return copied.requires_grad_(False)


def load_teachers(config: TrainConfig, tokenizer: Any, process_group: ProcessGroup) -> dict[str, Policy]:
    """The teachers of --teacher_model, frozen, by the value of --teacher_field; a model named twice is loaded once.

    Raises ConfigError for a teacher with another tokenizer than the policy's, which is `tokenizer`.
    """
    loaded: dict[str, Policy] = {}
    for source in dict.fromkeys(config.teacher_models.values()):
        loaded[source], teacher_tokenizer = load_policy(config, source, process_group, trains=False)
        refuse_other_tokenizer(source, teacher_tokenizer, config.model, tokenizer)
    return {value: loaded[source] for value, source in config.teacher_models.items()}


def _average(config: TrainConfig, policy: Policy, start: Path | None, process_group: ProcessGroup) -> Policy:
    """The moving average of the policy's weights: a copy of the policy, or the folder `teacher` of a checkpoint."""
    folder = start / AVERAGE if start else Path(config.model)
    if start and not folder.is_dir():
        raise CheckpointError(
            f"checkpoint {start}: it has no folder {AVERAGE} with the average of the policy's weights: resume with the "
            "method that saved it"
        )
    average = stage_anchor(config, policy, process_group, folder, is_resumed=start is not None)
    if average.adapter is None:
        average.model.requires_grad_(False)
    return average


def load_policy(
    config: TrainConfig, source: str, process_group: ProcessGroup, trains: bool = True
) -> tuple[Policy, Any]:
    """A policy, sharded over the ranks if the run uses FSDP, else a copy on each rank.

    Without `trains`, for a frozen model of its own, --dtype auto is bfloat16 on an accelerator, and the options of
    rotary positions do not apply.
    """
    positions = config.positions if trains else {}
    if not is_sharded(config, process_group):
        return load(source, config.dtype, config.device, trains=trains, positions=positions)
    policy, tokenizer = load(
        source, config.dtype, config.device, trains=trains, process_group=process_group, positions=positions
    )
    shard(policy.model, _sharding_options(config, process_group, policy.mixed))
    return replace(policy, shares=False, mixed=False), tokenizer  # FSDP casts the gathered weights to bfloat16


def is_sharded(config: TrainConfig, process_group: ProcessGroup) -> bool:
    """Whether the run's models are sharded over the ranks."""
    return config.fsdp and not process_group.is_alone


def _scalar(
    config: TrainConfig, source: str, process_group: ProcessGroup, trained: bool = False
) -> tuple[Any, Any, str | None]:
    """The result of `load_scalar`, sharded as the policy is; `trained` for a reward model, which is frozen."""
    positions = {} if trained else config.positions
    if not is_sharded(config, process_group):
        model, tokenizer, unused = load_scalar(source, config.dtype, config.device, trained, positions=positions)
        return model.requires_grad_(not trained), tokenizer, unused
    model, tokenizer, unused = load_scalar(source, config.dtype, config.device, trained, process_group, positions)
    shard(model.requires_grad_(not trained), _sharding_options(config, process_group, mixed=False))
    return model, tokenizer, unused


def _sharding_options(config: TrainConfig, process_group: ProcessGroup, mixed: bool) -> ShardingOptions:
    return ShardingOptions(process_group, config.fsdp_reshard_after_forward, config.fsdp_offload_params, mixed)


def refuse_unsupported_sharding(config: TrainConfig, process_group: ProcessGroup) -> None:
    """Raise ConfigError for combinations of options that FSDP does not support or that have no effect."""
    if config.fsdp and config.use_peft:
        raise ConfigError("--fsdp does not support --use_peft, with which every rank has the whole base: leave it out")
    if config.use_peft and config.positions:
        raise ConfigError(
            f"--{min(config.positions)} changes the base, to which an adapter's folder only refers: change the "
            "config.json of a copy, or train without --use_peft"
        )
    if config.router_aux_loss_coef and (config.fsdp or config.torch_compile):
        raise ConfigError(
            "--router_aux_loss_coef reads the outputs of routers inside the model, which is not possible in sharded or "
            "compiled layers: leave --fsdp and --torch_compile out"
        )
    if is_sharded(config, process_group) and config.fsdp_offload_params and process_group.device.type == "cpu":
        raise ConfigError("--fsdp_offload_params: on a CPU the shards are in its memory already: leave it out")


def _initial(
    config: TrainConfig, policy: Policy, tokenizer: Any, start: Path | None, process_group: ProcessGroup
) -> Policy:
    """The frozen reference model, for example of a KL term or of DPO."""
    if config.anchor_model is not None:
        anchor, anchor_tokenizer = load_policy(config, config.anchor_model, process_group)
        if anchor_tokenizer.get_vocab() != tokenizer.get_vocab():
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
    """The frozen initial model of a later stage: a copy of the policy, or with `is_resumed` the model in `folder`."""
    if policy.adapter is not None:
        return frozen(policy, folder if is_resumed else None)
    if is_resumed or is_sharded(config, process_group):
        return load_policy(config, str(folder), process_group)[0]
    return as_policy(deepcopy(policy.model), policy.mixed)


def load_reward_model(
    config: TrainConfig, tokenizer: Any, process_group: ProcessGroup = SINGLE_PROCESS
) -> RewardModel | None:
    """The reward model that grades samples, or None. Raises ConfigError for a model without a scalar head."""
    if config.reward_model is None:
        return None
    model, scorer_tokenizer, unused = _scalar(config, config.reward_model, process_group, trained=True)
    renderer = Renderer.of(scorer_tokenizer, config, None)
    at_once = config.tokens_at_once(
        process_group.device.type if is_sharded(config, process_group) else model.device.type
    )
    longest = fsdp_forward(model, lambda: num_positions(model))
    same_tokens = scorer_tokenizer.get_vocab() == tokenizer.get_vocab()
    return RewardModel(model, renderer, same_tokens, at_once, longest, unused)
