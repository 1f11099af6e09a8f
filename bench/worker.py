"""A worker process: one program on one case, a step per command of the driver: `python -m bench.worker SIDE CASE`.

SIDE is obverse, generate (sampling by transformers' own) or trl:PEER.
"""

from __future__ import annotations

import argparse
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench.cases import RATE, Case
from bench.channel import Channel
from bench.machine import facts
from bench.material import model_folder, problem_file
from obverse import __version__, methods
from obverse.config.resolve import resolve
from obverse.data import load_dataset
from obverse.inference import SamplingParams, SamplingRequest
from obverse.inference.hf import HFSampler
from obverse.models.load import load
from obverse.runtime.callbacks import Silent
from obverse.runtime.signals import SignalWatcher
from obverse.training.loop import train_step
from obverse.training.metrics import PhaseTimer
from obverse.training.setup import prepare
from obverse.types import ModelInput

UNEVEN = str(Path(__file__).with_name("rewards.py")) + ":uneven"


def obverse_options(case: Case, device: str, dtype: str, threads: int) -> dict[str, Any]:
    """The options of the case's run."""
    options: dict[str, Any] = {
        "model": "embedded" if case.shape is None else model_folder(case),
        "dataset": problem_file(case),
        "prompts_per_step": case.prompts,
        "max_completion_length": case.max_new,
        "max_steps": 10**6,
        "learning_rate": RATE,
        "log_completions": False,
        "output_dir": tempfile.mkdtemp(prefix="bench-"),
        "device": device,
        "dtype": dtype,
        "threads": threads,
        **case.options,
    }
    if case.method != "sft":
        options["num_generations"] = case.generations
    if case.reward == "uneven":
        options["verifier"] = UNEVEN
    return options


def run_obverse(case: Case, channel: Channel, device: str, dtype: str, threads: int) -> None:
    """Steps of obverse's training loop."""
    options = obverse_options(case, device, dtype, threads)
    run = prepare(resolve(case.method, methods.find(case.method), options), SignalWatcher(Silent()))
    channel.send(facts(run.learners[0].policy.model, {"obverse": __version__}))
    while True:
        channel.wait()
        before = run.state.num_tokens
        train_step(run)
        row = run.folder.metrics()[-1]
        phases = {name.removeprefix("time/"): value for name, value in row.items() if name.startswith("time/")}
        generated = 0
        if "completions/mean_length" in row:
            generated = round(row["completions/mean_length"] * case.prompts * case.generations)
        channel.reply(phases, generated, run.state.num_tokens - before - generated)


def run_sampling(case: Case, channel: Channel, device: str, dtype: str, side: str) -> None:
    """Sample the same prompts repeatedly, by obverse's sampler or by transformers' generate."""
    policy, tokenizer = load(model_folder(case), dtype, device)
    model = policy.model
    problems = load_dataset(problem_file(case), num_problems=case.prompts)
    prompts = [tokenizer(problem.prompt)["input_ids"] for problem in problems]
    sampler, eos = HFSampler(model), tokenizer.eos_token_id
    # as TRL calls it: a batch of repeated prompts, padded on the left, without truncation of the distribution
    repeated = torch.tensor([prompt for prompt in prompts for _ in range(case.generations)], device=device)
    params = SamplingParams(stop_ids=(eos,), max_tokens=case.max_new)
    channel.send(facts(model, {"transformers": version("transformers")}))
    number = 0
    while True:
        channel.wait()
        number += 1
        clock = PhaseTimer()
        with clock("sample"):
            if side == "obverse":
                seeds = [range(10**6 * number + 100 * row, 10**6 * number + 100 * row + case.generations)
                         for row in range(len(prompts))]  # fmt: skip
                requests = [
                    SamplingRequest(ModelInput(tuple(prompt)), seeds_of_prompt)
                    for prompt, seeds_of_prompt in zip(prompts, seeds, strict=True)
                ]
                completions = sampler.sample(requests, params)
                generated = sum(len(completion.ids) for group in completions for completion in group)
            else:
                generated = by_generate(model, repeated, case.max_new, eos, tokenizer.pad_token_id)
        channel.reply(clock.seconds, generated, 0)


@torch.no_grad()
def by_generate(model: Any, prompts: torch.Tensor, max_new: int, eos: int, pad: int) -> int:
    """Sample with transformers' generate; the tokens up to each row's eos."""
    out = model.generate(
        input_ids=prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_new,
        eos_token_id=eos,
        pad_token_id=pad,
        disable_compile=True,
    )[:, prompts.shape[1] :]
    ended = (out == eos).int()
    return int(((ended.cumsum(-1) - ended) == 0).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side")
    parser.add_argument("case", type=Case.of, help="a name, or a case as JSON")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    channel = Channel(arguments.device, arguments.dtype)
    torch.set_num_threads(arguments.threads)
    case = arguments.case
    side, _, peer = arguments.side.partition(":")
    if case.work == "sample":
        run_sampling(case, channel, arguments.device, arguments.dtype, side)
    elif side == "obverse":
        run_obverse(case, channel, arguments.device, arguments.dtype, arguments.threads)
    else:
        from bench.trl_side import run_trl  # TRL is needed for this side only

        run_trl(case, channel, arguments.device, arguments.dtype, peer)


if __name__ == "__main__":
    main()
