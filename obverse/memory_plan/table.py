"""The plan as `--dry-run` prints it, and the sentence that refuses what cannot fit."""

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
from obverse.memory_plan.plan import Plan, plan
from obverse.models.load import local_config


def memory(config: TrainConfig) -> Iterator[str]:
    """Lines of the expected memory per rank; ConfigError, after them, for a run that cannot fit.

    The ranks are those of torchrun, or of WORLD_SIZE as a user sets it. What is not known is said in a line.
    """
    try:
        ranks, local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    except ValueError:
        raise ConfigError("WORLD_SIZE and LOCAL_WORLD_SIZE must be numbers of processes") from None
    try:
        local_config(config.model)
        long, known = lengths(config)
        made = plan(config, long, ranks)
    except ConfigError as error:
        yield f"memory: no plan: {error}"
        return
    yield from lines(made, known)
    there = machine.total(made.device)
    if there is None:
        yield f"there is no {made.device} here to compare it with"
        return
    here, own = ("this card", 0) if made.device != "cpu" else ("this machine", machine.resident())
    local = local if made.device == "cpu" else 1
    needed = local * (made.peak + own)
    whose = f" for {local} ranks" if local > 1 else ""
    libraries = f", {size(local * own)} of them for Python and its libraries" if own else ""
    yield f"{here} has {size(there)}; the peak{whose} is {size(needed)}{libraries}"
    if needed > there:
        raise ConfigError(f"memory: {here} has {size(there)}: {refusal(config, long, made, there // local - own)}")


def lines(made: Plan, known: str) -> Iterator[str]:
    """What is held and when; a phase's sum has what lasts in it."""
    who = f"on each of {made.ranks} ranks" if made.ranks > 1 else "in one process"
    yield f"memory {who}, {made.device}; {known}"
    yield from (row(*each) for each in made.lasting.items())
    if made.rows:
        yield row(f"cache of {made.rows.num_rows} x {made.rows.length:,} tokens", made.cache)
        yield row("decoding", made.decoding)
        if made.gathered_to_sample:
            yield row("whole weights to sample with", made.gathered_to_sample)
        yield row("= sampling", made.sampling)
    yield row("gradients", made.gradients)
    yield row(f"activations of {made.micro.num_tokens:,} tokens", made.activations)
    yield row("logits", made.logits)
    if made.gathered:
        yield row("whole weights to train with", made.gathered)
    yield row("= training", made.training)


def row(name: str, number: int) -> str:
    return f"  {name:<36}{size(number):>12}"


def size(number: int) -> str:
    """Bytes for a reader; 1 GB is 10^9 of them."""
    return f"{number / 10**9:,.1f} GB" if number >= 10**10 else f"{number / 10**6:,.1f} MB"


def refusal(config: TrainConfig, long: Lengths, made: Plan, there: int) -> str:
    """Why a rank's work cannot fit `there` bytes, and the option that helps most."""
    phase = "training" if made.training >= made.sampling else "sampling"
    told = f"{phase} needs {size(made.peak)} beside Python and its libraries"
    tried = []
    for words, change in changes(config, made):
        with suppress(ConfigError):  # not every model can be trained so
            tried.append((words, plan(config.model_copy(update=change), long, made.ranks)))
    if not tried:
        return f"{told}: take a smaller model or a larger machine"
    words, best = min(tried, key=lambda pair: pair[1].peak)
    enough = "" if best.peak <= there else ", which is not enough alone"
    return f"{told}: {words} brings it to {size(best.peak)}{enough}"


def changes(config: TrainConfig, made: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """What could be written differently, with the options that it changes; the run's results stay but for use_peft."""
    if not config.gradient_checkpointing:
        yield "--gradient_checkpointing", {"gradient_checkpointing": True}
    budget = config.tokens_at_once(torch.device(made.device).type)
    if budget > 512:
        yield f"--micro_batch_tokens {budget // 4}", {"micro_batch_tokens": budget // 4}
    if made.rows and made.rows.num_rows > 8:
        yield f"--rollout_batch_size {made.rows.num_rows // 4}", {"rollout_batch_size": made.rows.num_rows // 4}
    if made.ranks > 1 and not config.fsdp and not config.use_peft:
        yield "--fsdp", {"fsdp": True}
    if not config.use_peft and not config.fsdp:
        yield "--use_peft (low-rank adapters in place of the whole policy)", {"use_peft": True}
