"""Builds the sampler of a run: the policy itself, or a vLLM server with its weights; synchronous or one step ahead."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from obverse.config.train import TrainConfig
from obverse.data.renderer import Renderer
from obverse.distributed.fsdp import full_tensors, is_sharded, model_state, unsharded
from obverse.distributed.process_group import ProcessGroup
from obverse.errors import ConfigError
from obverse.estimator.requests import samples_policy
from obverse.estimator.schedule import TrainingSchedule
from obverse.inference import Completion, Sampler, SamplingParams, SamplingRequest, sampling_params
from obverse.inference.async_rollout import AsyncSampler
from obverse.inference.hf import HFSampler
from obverse.inference.http import Client
from obverse.inference.tokenizer_probe import TEXT
from obverse.inference.vllm import ServerRequirements, VLLMSampler, vllm_params
from obverse.inference.weight_sync import WeightSync
from obverse.models.lora import merged
from obverse.models.policy import Policy
from obverse.types import Problem

WEIGHTS = "vllm-weights"  # in the run folder; the server reads it
HEAD = "head.safetensors"
INSTEAD = "sample with a server (--sampler vllm), or train with a method that does not sample"
GRADE = "sample with a server, and grade its completions by 'obverse grade'"
WITHOUT_EVALUATION = "leave --eval_dataset out, or sample with a server (--sampler vllm)"
NUM_REFERENCE_TOKENS = 64  # policy and server are compared by their log-probs of these


@dataclass(frozen=True)
class PolicyWeights:
    """The policy as a source of weights for a server (see weight_sync.WeightSource)."""

    policy: Policy
    process_group: ProcessGroup

    def save(self, folder: Path) -> None:
        model, state = self.policy.model, self.state()
        if not self.process_group.is_first:
            return
        shutil.rmtree(folder, ignore_errors=True)
        is_assembled = is_sharded(model) or self.policy.adapter is not None
        model.save_pretrained(folder, **({"state_dict": dict(state)} if is_assembled else {}))
        write_head(model, state, folder)

    def state(self) -> Mapping[str, torch.Tensor]:
        """The policy's weights with adapters merged, unsharded on the first rank; all ranks call this."""
        if self.policy.adapter is not None:
            return merged(self.policy)
        state = model_state(self.policy.model)
        return full_tensors(state, self.process_group) if is_sharded(self.policy.model) else state

    def log_probs(self, ids: Sequence[int]) -> list[float]:
        model = self.policy.model
        with torch.no_grad(), unsharded(model), self.policy.computing():
            logits = model(input_ids=torch.tensor([list(ids)], device=self.policy.device)).logits[0, :-1]
        logp = logits.float().log_softmax(-1).cpu()
        return [float(row[number]) for row, number in zip(logp, ids[1:], strict=True)]


def write_head(model: Any, state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Add the weights of a head that is tied to the embedding to a folder, which omits them.

    A server that keeps a packed copy of such a head (vLLM on a CPU does) updates it only from weights of its own.
    """
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not table.weight:
        return
    names = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    name = names[id(head)]
    save_file({name: state[names[id(table)]].detach().cpu().contiguous()}, folder / HEAD)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        contents = json.loads(index.read_text())
        contents["weight_map"][name] = HEAD
        index.write_text(json.dumps(contents))


class NoSampler:
    """The sampler of a run that samples nothing."""

    def sync_weights(self, step: int) -> None:
        pass

    def sample(
        self, requests: Sequence[SamplingRequest], params: SamplingParams, progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        raise RuntimeError("the methods of this run do not sample")


def check_engine(config: TrainConfig, schedule: TrainingSchedule) -> None:
    """Raise ConfigError if the sampler's options do not fit the other options or the method."""
    does_sample = any(map(samples_policy, schedule.methods))
    if config.async_sampling and len(schedule.methods) > 1:
        raise ConfigError(
            "--async_sampling: with several methods, the requests of the next step are not known one step ahead"
        )
    if config.async_sampling and any(method.max_rounds > 1 for method in schedule.methods):
        raise ConfigError(
            f"--async_sampling: {config.method} samples again until its batch is full, and the requests for that are "
            "not known one step ahead"
        )
    if config.async_sampling and any(method.replay is not None for method in schedule.methods):
        raise ConfigError(
            f"--async_sampling: {config.method} takes problems from a store that the step before fills, so that the "
            "requests are not known one step ahead"
        )
    if config.async_sampling and any(method.follow_up is not None for method in schedule.methods):
        raise ConfigError(
            f"--async_sampling: {config.method} requests further samples once the first are graded, and these requests "
            "are not known one step ahead: leave --async_sampling out"
        )
    if config.async_sampling and not does_sample:
        raise ConfigError(f"--async_sampling: {config.method} does not sample")
    if config.sampler != "vllm":
        return
    if not does_sample and config.eval_dataset is None:
        raise ConfigError(f"--sampler vllm: {config.method} does not sample")
    if not all(method.trains_policy for method in schedule.methods):
        raise ConfigError(f"--sampler vllm: {config.method} does not train a policy")
    if config.load_in_4bit:
        raise ConfigError("--sampler vllm: a server cannot load a base in 4 bits: use --sampler hf")
    if config.max_sampling_seconds is not None:
        raise ConfigError("--max_sampling_seconds: a vLLM server cannot stop a call: leave it out, or use --sampler hf")
    vllm_params(sampling_params(config, ()), 0)


@dataclass(frozen=True)
class SamplerContext:
    """What a run's sampler is built from.

    `problems` are all that may be sampled; `note` receives lines for the user; `check` is called while the run waits
    for a server, and may raise.
    """

    config: TrainConfig
    policy: Policy
    problems: Sequence[Problem]
    renderer: Renderer
    folder: Path
    process_group: ProcessGroup
    note: Callable[[str], None]
    check: Callable[[], None]


def make_sampler(context: SamplerContext, schedule: TrainingSchedule) -> Sampler:
    """The sampler of the options; a server has been checked.

    Raises ConfigError for a server that does not fit the run or a model that cannot be sampled, EngineError if no
    server answers.
    """
    config, policy = context.config, context.policy
    does_sample = any(map(samples_policy, schedule.methods))
    if not does_sample and config.eval_dataset is None:
        return NoSampler()
    sampler: Sampler
    if config.sampler == "vllm":
        sampler = vllm_sampler(context)
    else:
        remedy = INSTEAD if does_sample else WITHOUT_EVALUATION
        embedded = embedded_sampler(policy, context.renderer, config.rollout_batch_size, remedy)
        if embedded.remark:
            context.note(embedded.remark)
        sampler = embedded
    if config.async_sampling:
        return AsyncSampler(sampler, threaded=config.sampler == "vllm", check=context.check)
    return sampler


def embedded_sampler(policy: Policy, renderer: Renderer, max_rows: int = 256, remedy: str = GRADE) -> HFSampler:
    """The embedded sampler of a policy; ConfigError, which ends with `remedy`, for a model that it cannot sample."""
    try:
        return HFSampler(policy.model, max_rows, renderer.decode, policy.mixed, policy.scope)
    except ConfigError as error:
        raise ConfigError(f"{error}: {remedy}") from None


def vllm_sampler(context: SamplerContext) -> VLLMSampler:
    """A sampler that is connected to the server at `vllm_url`."""
    config, policy, renderer, process_group = context.config, context.policy, context.renderer, context.process_group
    client = Client(config.vllm_url, config.vllm_timeout)
    prompts = [renderer.prompt(problem) for problem in context.problems]
    reference_ids = list(max(prompts, key=len).token_ids[:NUM_REFERENCE_TOKENS]) if prompts else []
    folder = context.folder / WEIGHTS
    if process_group.is_first:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    name = str(process_group.broadcast(uuid.uuid4().hex[:12]))
    weights = WeightSync(
        client,
        PolicyWeights(policy, process_group),
        folder,
        name,
        reference_ids if len(reference_ids) > 1 else [0, 0],
        process_group,
        context.check,
    )
    requirements = ServerRequirements(
        policy.model.config.get_text_config().vocab_size,
        TEXT,
        renderer.tokenizer(TEXT, add_special_tokens=False)["input_ids"],
        max(map(len, prompts), default=0) + config.max_completion_length,
    )
    sampler = VLLMSampler(client, weights, requirements, renderer.decode, config.rollout_batch_size, context.note)
    sampler.connect()
    return sampler


def clear(folder: Path) -> None:
    """Remove the folder of weights for a server, at the end of a run."""
    shutil.rmtree(folder / WEIGHTS, ignore_errors=True)


def versions_of(sampler: Sampler) -> Mapping[str, str]:
    """The sampler's name and version, for environment.json."""
    inner = sampler.sampler if isinstance(sampler, AsyncSampler) else sampler
    return {"sampler": f"vllm {inner.version}" if isinstance(inner, VLLMSampler) else "hf"}
