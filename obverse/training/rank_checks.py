"""Facts that all ranks of a run must have in common before its first step."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import torch

from obverse.config.train import TrainConfig
from obverse.data.renderer import Renderer
from obverse.distributed.fsdp import is_sharded
from obverse.distributed.process_group import ProcessGroup
from obverse.errors import ConfigError
from obverse.models.policy import Policy, set_threads
from obverse.runtime.run_dir import RunFolder, packages


def require_equal(process_group: ProcessGroup, facts: Mapping[str, Any]) -> None:
    """Raise ConfigError, on every rank, if a fact of one rank differs from the first rank's; it has both values."""
    if process_group.is_alone:
        return
    first, *rest = process_group.gather(json.loads(json.dumps(facts, default=str)))
    for rank, theirs in enumerate(rest, start=1):
        for name in first:
            if theirs.get(name) != first[name]:
                raise ConfigError(
                    f"rank {rank} has {name} {theirs.get(name)!r:.200}, rank 0 has {first[name]!r:.200}: start all "
                    "ranks with the same command, on the same version, data and model"
                )


def option_facts(config: TrainConfig) -> dict[str, Any]:
    """Every option with its value, the method's own among them."""
    option_facts = config.model_dump(mode="json")
    return {**option_facts.pop("method_options"), **option_facts}


def version_facts() -> dict[str, Any]:
    """The versions that decide a run's numbers, as facts."""
    return {f"version of {name}": version for name, version in packages().items()}


def tokenizer_facts(renderer: Renderer) -> dict[str, str]:
    """The vocabulary and the chat template, as facts."""
    vocabulary = json.dumps(renderer.tokenizer.get_vocab(), sort_keys=True)
    return {
        "a vocabulary with sha256": hashlib.sha256(vocabulary.encode("utf-8", "surrogatepass")).hexdigest()[:12],
        "the template": json.dumps(renderer.record(), default=str),
    }


def weights_checksum(model: torch.nn.Module) -> int:
    """A sum over the bits of all weights, independent of the order of additions; 0 under FSDP."""
    if is_sharded(model):
        return 0
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    parts = [weight.detach().reshape(-1).view(integers[weight.element_size()]) for weight in model.parameters()]
    return sum((number + 1) * int(part.sum(dtype=torch.int64)) for number, part in enumerate(parts)) % 2**63


def set_equal_threads(
    config: TrainConfig, resumed: RunFolder | None, policy: Policy, process_group: ProcessGroup
) -> int:
    """Set the threads of this rank, as many as every other has, and return their number.

    A resumed run keeps its number of threads: another one would change the order of sums, and with it rounding. Several
    ranks share a machine: without --threads each uses OMP_NUM_THREADS if it is set (torchrun sets 1), else 1.
    """
    wanted = config.threads or (resumed.threads() if resumed else 0)
    if process_group.is_alone:
        return set_threads(wanted, policy)
    if not wanted:
        wanted = torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else 1
    return set_threads(process_group.broadcast(wanted), policy)
