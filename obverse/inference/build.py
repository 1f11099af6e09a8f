"""Who samples for a run: the policy itself or a vLLM server that is given its weights, at once or one update ahead."""

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
from obverse.distributed.fsdp import gathered, root_of, state_of, whole
from obverse.distributed.process_group import ProcessGroup
from obverse.errors import ConfigError
from obverse.estimator.requests import wants
from obverse.estimator.schedule import TrainingSchedule
from obverse.inference import Completion, Sampler, SamplingParams, SamplingRequest, sampling_params
from obverse.inference.async_rollout import Ahead
from obverse.inference.hf import HFSampler
from obverse.inference.http import Client
from obverse.inference.vllm import ServerRequirements, VLLMSampler, vllm_params
from obverse.inference.weight_sync import WeightSync
from obverse.models.lora import merged
from obverse.models.policy import Policy
from obverse.types import Problem

WEIGHTS = "vllm-weights"  # in the run folder: what the server reads
# Every tokenizer cuts it its own way: digits, signs, spaces, letters beyond ASCII.
TEXT = (
    "Let x = 17 + 25; then x\u00b2 is \u201c1,764\u201d.\n\n  Answer: \\boxed{42} gr\u00f6\u00dfer \u6771\u4eac #### 7"
)
HEAD = "head.safetensors"
NUM_KNOWN = 64  # tokens by which policy and server are compared


@dataclass(frozen=True)
class PolicyWeights:
    """The policy as a server gets to know it (weight_sync.WeightSource)."""

    policy: Policy
    process_group: ProcessGroup

    def save(self, folder: Path) -> None:
        model, state = self.policy.model, self.state()
        if not self.process_group.is_first:
            return
        shutil.rmtree(folder, ignore_errors=True)
        if self.policy.adapter is None:
            model.save_pretrained(folder, **({"state_dict": state} if root_of(model) else {}))
            write_head(model, state, folder)
        else:  # the head is among them
            model.config.save_pretrained(folder)
            save_file({name: weight.clone().cpu() for name, weight in state.items()}, folder / "model.safetensors")

    def state(self) -> Mapping[str, torch.Tensor]:
        """The policy's weights, adapters added, shares put together on the first rank; every rank calls this."""
        if self.policy.adapter is not None:
            return merged(self.policy)
        found = state_of(self.policy.model)
        return gathered(found, self.process_group) if root_of(self.policy.model) else found

    def log_probs(self, ids: Sequence[int]) -> list[float]:
        model = self.policy.model
        with torch.no_grad(), whole(model), self.policy.computing():
            logits = model(input_ids=torch.tensor([list(ids)], device=self.policy.device)).logits[0, :-1]
        logp = logits.float().log_softmax(-1).cpu()
        return [float(row[number]) for row, number in zip(logp, ids[1:], strict=True)]


def write_head(model: Any, state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Add the head's weights to a folder of weights that leaves them out because they are the embedding's.

    A server that keeps a packed copy of such a head (vLLM on a CPU does) makes a new one only if it is given new ones.
    """
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not table.weight:
        return
    names = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    name = names[id(head)]
    save_file({name: state[names[id(table)]].detach().cpu().contiguous()}, folder / HEAD)
    index = folder / "model.safetensors.index.json"
    if index.exists():
        found = json.loads(index.read_text())
        found["weight_map"][name] = HEAD
        index.write_text(json.dumps(found))


class NoSampler:
    """The sampler of a run that samples nothing."""

    def sync_weights(self, step: int) -> None:
        pass

    def sample(
        self, requests: Sequence[SamplingRequest], params: SamplingParams, progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        raise RuntimeError("this run was prepared as one that samples nothing")


def draws(schedule: TrainingSchedule) -> bool:
    """Whether one of the methods trains on samples that are drawn while it runs."""
    return any(wants(method, kind) for method in schedule.methods for kind in ("rollouts", "greedy"))


def check_engine(config: TrainConfig, schedule: TrainingSchedule) -> None:
    """Raise ConfigError for a sampler that the other options or the method do not go with."""
    own = draws(schedule)
    if config.async_sampling and len(schedule.methods) > 1:
        raise ConfigError("--async_sampling: what the next step samples is not known in a course of several methods")
    if config.async_sampling and any(method.max_rounds > 1 for method in schedule.methods):
        raise ConfigError(
            f"--async_sampling: {config.method} samples again until its batch is full, and how much that takes is not "
            "known one update ahead"
        )
    if config.async_sampling and not own:
        raise ConfigError(f"--async_sampling: {config.method} samples nothing")
    if config.sampler != "vllm":
        return
    if not own and config.eval_dataset is None:
        raise ConfigError(f"--sampler vllm: {config.method} samples nothing")
    if not all(method.trains_policy for method in schedule.methods):
        raise ConfigError(f"--sampler vllm: {config.method} trains no policy that a server could be given")
    if config.load_in_4bit:
        raise ConfigError("--sampler vllm: a base in 4 bits has no weights that a server could be given: --sampler hf")
    if config.max_sampling_seconds is not None:
        raise ConfigError("--max_sampling_seconds: a vLLM server cannot cut a call off: leave it out, or --sampler hf")
    vllm_params(sampling_params(config, ()), 0)


def make_sampler(
    config: TrainConfig,
    schedule: TrainingSchedule,
    policy: Policy,
    problems: Sequence[Problem],
    renderer: Renderer,
    folder: Path,
    process_group: ProcessGroup,
    note: Callable[[str], None],
    check: Callable[[], None],
) -> Sampler:
    """The sampler that the options name; a server has been asked what it is.

    `note` takes a line for the user; `check` is called while somebody waits, and may raise.
    Raises ConfigError for a server that does not fit the run and for a model that cannot be sampled, EngineError for no
    server.
    """
    if not draws(schedule) and config.eval_dataset is None:
        return NoSampler()
    sampler: Sampler
    if config.sampler == "vllm":
        sampler = served(config, policy, problems, renderer, folder, process_group, note, check)
    else:
        sampler = HFSampler(policy.model, config.rollout_batch_size, renderer.decode, policy.mixed, policy.scope)
    if config.async_sampling:
        return Ahead(sampler, threaded=config.sampler == "vllm", check=check)
    return sampler


def served(
    config: TrainConfig,
    policy: Policy,
    problems: Sequence[Problem],
    renderer: Renderer,
    folder: Path,
    process_group: ProcessGroup,
    note: Callable[[str], None],
    check: Callable[[], None],
) -> VLLMSampler:
    """A sampler of the server at `vllm_url`, which fits the run."""
    client = Client(config.vllm_url, config.vllm_timeout)
    prompts = [renderer.prompt(problem) for problem in problems]
    known = list(max(prompts, key=len).token_ids[:NUM_KNOWN]) if prompts else []
    place = folder / WEIGHTS
    if process_group.is_first:
        shutil.rmtree(place, ignore_errors=True)  # what a run that was killed left
    name = str(process_group.broadcast(uuid.uuid4().hex[:12]))
    needs = ServerRequirements(
        policy.model.config.get_text_config().vocab_size,
        TEXT,
        renderer.tokenizer(TEXT, add_special_tokens=False)["input_ids"],
        max(map(len, prompts), default=0) + config.max_completion_length,
    )
    sampler = VLLMSampler(
        client,
        WeightSync(
            client,
            PolicyWeights(policy, process_group),
            place,
            name,
            known if len(known) > 1 else [0, 0],
            process_group,
            check,
        ),
        needs,
        renderer.decode,
        config.rollout_batch_size,
        note,
    )
    sampler.connect()
    return sampler


def clear(folder: Path) -> None:
    """Remove the weights that a server read: their run is over."""
    shutil.rmtree(folder / WEIGHTS, ignore_errors=True)


def versions_of(sampler: Sampler) -> Mapping[str, str]:
    """The engine's name and version, for environment.json."""
    inner = sampler.sampler if isinstance(sampler, Ahead) else sampler
    return {"sampler": f"vllm {inner.version}" if isinstance(inner, VLLMSampler) else "hf"}
