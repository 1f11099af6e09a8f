"""TRL's trainers as a worker: a callback waits for the driver before every step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from bench.cases import RATE, Case, trl_options
from bench.channel import Channel
from bench.machine import facts
from bench.material import model_folder, problem_file
from bench.rewards import uneven
from obverse.data import load_dataset
from obverse.data.epoch_order import take
from obverse.rewards import grade_completion
from obverse.training.metrics import PhaseTimer
from obverse.types import Problem

disable_progress_bars()
SEED = 42


class DriverCallback(TrainerCallback):
    """Waits for the driver before every step and reports to it afterwards."""

    def __init__(self, channel: Channel, clock: PhaseTimer, counts: dict[str, int]) -> None:
        self.channel, self.clock, self.counts = channel, clock, counts

    def on_step_begin(self, *args: Any, **options: Any) -> None:
        self.channel.wait()
        self.clock.seconds.clear()

    def on_step_end(self, *args: Any, **options: Any) -> None:
        seconds = dict(self.clock.seconds)
        self.channel.reply(seconds, self.counts.get("generated", 0), self.counts["trained"])


def run_trl(case: Case, channel: Channel, device: str, dtype: str, peer: str) -> None:
    """Train until the driver ends the process."""
    folder = model_folder(case)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    problems = load_dataset(problem_file(case))
    in_order = take(problems, SEED, 0, len(problems))  # in the order of obverse's run
    clock = PhaseTimer()
    counts = {"trained": 0}
    make = sft_trainer if case.work == "shown" else grpo_trainer
    options = {**plain_options(device), **trl_options(peer, case)}
    trainer = make(case, model, AutoTokenizer.from_pretrained(folder), in_order, options, clock, counts)
    trainer.add_callback(DriverCallback(channel, clock, counts))
    channel.send(facts(model, {"trl": version("trl"), "transformers": version("transformers")}))
    trainer.train()


def plain_options(device: str) -> dict[str, Any]:
    """The options of every case: obverse's optimizer, no logs, no files."""
    return {
        "output_dir": tempfile.mkdtemp(prefix="bench-"),
        "max_steps": 10**6,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "use_cpu": device == "cpu",
        "bf16": False,  # the dtype of the weights is used, as in obverse
        "report_to": [],
        "logging_steps": 10**6,
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": SEED,
    }


def grpo_trainer(
    case: Case,
    model: Any,
    tokenizer: Any,
    problems: Sequence[Problem],
    options: dict[str, Any],
    clock: PhaseTimer,
    counts: dict[str, int],
) -> Any:
    """GRPO with obverse's verifiers as its reward function."""
    by_prompt = {problem.prompt: problem for problem in problems}

    def reward(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        pairs = [(by_prompt[prompt], text) for prompt, text in zip(prompts, completions, strict=True)]
        if case.reward == "uneven":
            return [uneven(*pair) for pair in pairs]
        return [grade_completion(*pair).reward for pair in pairs]

    trainer = GRPOTrainer(
        model=model,
        args=GRPOConfig(
            num_generations=case.generations,
            max_completion_length=case.max_new,
            loss_type="grpo",
            beta=0.0,
            temperature=1.0,
            shuffle_dataset=False,
            **options,
        ),
        reward_funcs=reward,
        train_dataset=Dataset.from_list([{"prompt": problem.prompt} for problem in problems]),
        processing_class=tokenizer,
    )

    def count(generated: Any) -> Any:
        counts["generated"] = counts["trained"] = sum(map(len, generated[0]))
        return generated

    trainer._generate_single_turn = timed(clock, "sample", trainer._generate_single_turn, count)
    trainer._calculate_rewards = timed(clock, "grade", trainer._calculate_rewards)
    return trainer


def sft_trainer(
    case: Case,
    model: Any,
    tokenizer: Any,
    problems: Sequence[Problem],
    options: dict[str, Any],
    clock: PhaseTimer,
    counts: dict[str, int],
) -> Any:
    """SFT on prompts and completions, which TRL tokenizes before the first step."""
    rows = [{"prompt": problem.prompt, "completion": "".join(problem.demonstration or ())} for problem in problems]
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(max_length=None, **options),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    labels = [sum(label != -100 for label in row["labels"]) for row in trainer.train_dataset]
    counts["trained"] = case.prompts * labels[0]
    return trainer


def timed(
    clock: PhaseTimer, phase: str, function: Callable[..., Any], then: Callable[[Any], Any] | None = None
) -> Callable[..., Any]:
    """The function with its run time added to the clock."""

    def call(*args: Any, **options: Any) -> Any:
        with clock(phase):
            result = function(*args, **options)
        return then(result) if then else result

    return call
