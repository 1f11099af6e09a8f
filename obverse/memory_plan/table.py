"""The memory plan as `--dry-run` prints it, and the error for a run that does not fit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch

from obverse.config.train import TrainConfig
from obverse.errors import ConfigError
from obverse.memory_plan import machine
from obverse.memory_plan.batch_shapes import Lengths
from obverse.memory_plan.lengths import lengths
from obverse.memory_plan.plan import Plan, RowsTooLong, plan
from obverse.models.load import NotOnThisMachine, local_config


def memory(config: TrainConfig) -> Iterator[str]:
    """Lines of the expected memory per rank. Raises ConfigError after the last line for a run that does not fit.

    The number of ranks is WORLD_SIZE, as set by torchrun or the user. Without a plan the line gives the reason. Raises
    ConfigError too for a model that no run could load.
    """
    try:
        ranks, local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    except ValueError:
        raise ConfigError("WORLD_SIZE and LOCAL_WORLD_SIZE must be numbers of processes") from None
    try:
        local_config(config.model)
        longest, source = lengths(config)
        planned = plan(config, longest, ranks)
    except (NotOnThisMachine, RowsTooLong) as error:  # a run may have the model, or only shorter rows
        yield f"memory: no plan: {error}"
        return
    yield from lines(planned, source)
    available = machine.total(planned.device)
    if available is None:
        yield f"there is no {planned.device} here to compare it with"
        return
    where, process = ("this card", 0) if planned.device != "cpu" else ("this machine", machine.resident())
    local = local if planned.device == "cpu" else 1
    needed = local * (planned.peak + process)
    for_ranks = f" for {local} ranks" if local > 1 else ""
    libraries = f", {size(local * process)} of them for Python and its libraries" if process else ""
    yield f"{where} has {size(available)}; the peak{for_ranks} is {size(needed)}{libraries}"
    if needed > available:
        raise ConfigError(
            f"memory: {where} has {size(available)}: {refusal(config, longest, planned, available // local - process)}"
        )


def lines(planned: Plan, source: str) -> Iterator[str]:
    """One line per use of memory; the sum of a phase includes what lasts."""
    processes = f"on each of {planned.ranks} ranks" if planned.ranks > 1 else "in one process"
    yield f"memory {processes}, {planned.device}; {source}"
    yield from (row(*item) for item in planned.lasting.items())
    if planned.rows:
        yield row(f"cache of {planned.rows.num_rows} x {planned.rows.length:,} tokens", planned.cache)
        yield row("decoding", planned.decoding)
        if planned.gathered_to_sample:
            yield row("whole weights to sample with", planned.gathered_to_sample)
        yield row("= sampling", planned.sampling)
    if planned.scored:
        yield row("forward passes of the teacher", planned.scored)
        yield row("= scoring", planned.scoring)
    yield row("gradients", planned.gradients)
    yield row(f"activations of {planned.micro.num_tokens:,} tokens", planned.activations)
    yield row("logits", planned.logits)
    if planned.gathered:
        yield row("whole weights to train with", planned.gathered)
    yield row("= training", planned.training)


def row(name: str, number: int) -> str:
    return f"  {name:<36}{size(number):>12}"


def size(number: int) -> str:
    """Bytes for a reader; 1 GB is 10^9 of them."""
    return f"{number / 10**9:,.1f} GB" if number >= 10**10 else f"{number / 10**6:,.1f} MB"


def refusal(config: TrainConfig, longest: Lengths, planned: Plan, available: int) -> str:
    """Why a rank's work does not fit `available` bytes, and the option that saves most."""
    sums = {"training": planned.training, "sampling": planned.sampling, "scoring": planned.scoring}
    phase = max(sums, key=sums.__getitem__)
    need = f"{phase} needs {size(planned.peak)} beside Python and its libraries"
    savings = []
    for words, change in changes(config, planned):
        with suppress(ConfigError):  # not every model supports it
            savings.append((words, plan(config.model_copy(update=change), longest, planned.ranks)))
    if not savings:
        return f"{need}: take a smaller model or a larger machine"
    words, best = min(savings, key=lambda pair: pair[1].peak)
    enough = "" if best.peak <= available else ", which is not enough alone"
    return f"{need}: {words} brings it to {size(best.peak)}{enough}"


def changes(config: TrainConfig, planned: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """Options that save memory, with the changed values. All but use_peft keep the results of the run."""
    if not config.gradient_checkpointing:
        yield "--gradient_checkpointing", {"gradient_checkpointing": True}
    budget = config.tokens_at_once(torch.device(planned.device).type)
    if budget > 512:
        yield f"--micro_batch_tokens {budget // 4}", {"micro_batch_tokens": budget // 4}
    if planned.rows and planned.rows.num_rows > 8:
        yield f"--rollout_batch_size {planned.rows.num_rows // 4}", {"rollout_batch_size": planned.rows.num_rows // 4}
    if planned.ranks > 1 and not config.fsdp and not config.use_peft:
        yield "--fsdp", {"fsdp": True}
    if not config.use_peft and not config.fsdp:
        yield "--use_peft (low-rank adapters in place of the whole policy)", {"use_peft": True}
