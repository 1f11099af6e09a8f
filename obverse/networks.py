"""The networks of a run: the policy, and whichever of anchor, critic and reward model somebody reads."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from obverse.adapters import is_adapter
from obverse.adapters.lora import frozen, load_adapted, without
from obverse.config import TrainConfig
from obverse.course import Course
from obverse.dist.shards import Sharing, inside, shard
from obverse.dist.team import ALONE, Team
from obverse.errors import CheckpointError, ConfigError
from obverse.loading import load, load_scalar
from obverse.model import Policy, as_policy, with_checkpoints, with_compiled_layers
from obverse.positions import num_positions
from obverse.requirements import samples_initial
from obverse.scorer import RewardModel
from obverse.text import Renderer
from obverse.weights import unused


@dataclass(frozen=True)
class Networks:
    """What was loaded; None where nobody reads it."""

    policy: Policy
    tokenizer: Any
    anchor: Policy | None  # the initial model, frozen
    critic: Any
    table: torch.nn.Module | None  # the initial model's embeddings, frozen

    def readers(self, config: TrainConfig) -> dict[str, Any]:
        """The models that may read the run's texts to different lengths, by what messages call them."""
        others = {"the initial model": self.anchor.model} if self.anchor and config.anchor_model else {}
        return {"the model": self.policy.model, **others}

    def unused_weights(self, scorer: RewardModel | None) -> list[str]:
        """A sentence for each model whose files have weights that nothing reads."""
        models = (self.policy.model, self.anchor and self.anchor.model, self.critic, scorer and scorer.model)
        return list(dict.fromkeys(sentence for model in models if model is not None and (sentence := unused(model))))


def load_networks(config: TrainConfig, course: Course, start: Path | None, team: Team = ALONE) -> Networks:
    """Load what the course's methods need; from the checkpoint `start` what has learned since."""
    source = str(start) if start else config.model
    if not all(method.trains_policy for method in course.methods):
        model, tokenizer = _scalar(config, source, team)
        return Networks(Policy(model, head=None), tokenizer, None, None, None)
    policy, tokenizer = _policy(config, start, team)
    anchor = critic = table = None
    if any(method.needs("anchor") or samples_initial(method) for method in course.methods):
        anchor = _initial(config, policy, tokenizer, start, team)
    if any(method.critic is not None for method in course.methods):
        critic, _ = _scalar(config, str(start / "critic") if start else config.model, team)
    if any(method.inputs is not None for method in course.methods):
        table = _table(config, policy, start, team)
    if config.gradient_checkpointing:
        policy = with_checkpoints(policy)
    if config.torch_compile:
        policy = with_compiled_layers(policy)
    return Networks(policy, tokenizer, anchor, critic, table)


def _policy(config: TrainConfig, start: Path | None, team: Team) -> tuple[Policy, Any]:
    """What learns, and its tokenizer."""
    if config.use_peft:
        return load_adapted(config, start)
    if start and is_adapter(start):
        raise CheckpointError(f"checkpoint {start} holds an adapter and no whole model: add use_peft")
    return load_policy(config, str(start) if start else config.model, team)


def _table(config: TrainConfig, policy: Policy, start: Path | None, team: Team) -> torch.nn.Module:
    """The initial model's embeddings; under adapters they are the policy's own, which never move."""
    if policy.adapter is not None:
        table: torch.nn.Module = policy.model.get_input_embeddings()
        return table
    model = load_policy(config, config.model, team)[0].model if start else policy.model
    copied: torch.nn.Module = inside(model, lambda: deepcopy(model.get_input_embeddings()))
    return copied.requires_grad_(False)


def load_policy(config: TrainConfig, source: str, team: Team) -> tuple[Policy, Any]:
    """A policy as this run holds one: shared out over the ranks, or whole on each."""
    if not shares_out(config, team):
        return load(source, config.dtype, config.device, trains=True, positions=config.positions)
    policy, tokenizer = load(source, config.dtype, config.device, trains=True, team=team, positions=config.positions)
    shard(policy.model, _sharing(config, team, policy.mixed))
    return replace(policy, shares=False, mixed=False), tokenizer  # its weights are in bfloat16 where they are whole


def shares_out(config: TrainConfig, team: Team) -> bool:
    """Whether the run's networks are shared out over the ranks."""
    return config.fsdp and not team.is_alone


def _scalar(config: TrainConfig, source: str, team: Team, trained: bool = False) -> tuple[Any, Any]:
    """A critic or a reward model, held as the policy is; `trained`: one that learns no more."""
    positions = {} if trained else config.positions
    if not shares_out(config, team):
        model, tokenizer = load_scalar(source, config.dtype, config.device, trained, positions=positions)
        return model.requires_grad_(not trained), tokenizer
    model, tokenizer = load_scalar(source, config.dtype, config.device, trained, team, positions)
    shard(model.requires_grad_(not trained), _sharing(config, team, mixed=False))
    return model, tokenizer


def _sharing(config: TrainConfig, team: Team, mixed: bool) -> Sharing:
    return Sharing(team, config.fsdp_reshard_after_forward, config.fsdp_offload_params, mixed)


def refuse_unfit(config: TrainConfig, team: Team) -> None:
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
    if shares_out(config, team) and config.fsdp_offload_params and team.device.type == "cpu":
        raise ConfigError("--fsdp_offload_params: on a CPU the shares are in its memory already: leave it out")


def _initial(config: TrainConfig, policy: Policy, tokenizer: Any, start: Path | None, team: Team) -> Policy:
    """The frozen model that KL, DPO and the like compare with."""
    if config.anchor_model is not None:
        anchor, own = load_policy(config, config.anchor_model, team)
        if own.get_vocab() != tokenizer.get_vocab():
            raise ConfigError(f"--anchor_model: {config.anchor_model} has another vocabulary than {config.model}")
        return anchor
    if policy.adapter is not None:
        return without(policy)
    if start or shares_out(config, team):
        return load_policy(config, config.model, team)[0]
    return as_policy(deepcopy(policy.model), policy.mixed)


def stage_anchor(config: TrainConfig, policy: Policy, team: Team, folder: Path, is_resumed: bool = False) -> Policy:
    """The frozen initial model of a stage that began later: the policy as it is now, or then, as `folder` has it."""
    if policy.adapter is not None:
        return frozen(policy, folder if is_resumed else None)
    if is_resumed or shares_out(config, team):
        return load_policy(config, str(folder), team)[0]
    return as_policy(deepcopy(policy.model), policy.mixed)


def load_scorer(config: TrainConfig, tokenizer: Any, team: Team = ALONE) -> RewardModel | None:
    """The reward model that grades own samples; ConfigError when it is none."""
    if config.reward_model is None:
        return None
    model, own = _scalar(config, config.reward_model, team, trained=True)
    renderer = Renderer.of(own, config, None)
    at_once = config.tokens_at_once(team.device.type if shares_out(config, team) else model.device.type)
    longest = inside(model, lambda: num_positions(model))
    return RewardModel(model, renderer, own.get_vocab() == tokenizer.get_vocab(), at_once, longest)
