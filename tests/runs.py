"""Short runs for tests: a configuration on a small data set, and what two runs must have in common."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from obverse import methods
from obverse.config.resolve import resolve
from obverse.config.train import TrainConfig
from obverse.data.synthetic import arithmetic
from obverse.estimator.schedule import as_schedule
from obverse.runtime.run_dir import RunFolder

SMALL = {"prompts_per_step": 4, "max_completion_length": 12, "learning_rate": 1e-3, "micro_batch_tokens": 256}


def write_problems(path: Path, num_problems: int = 24, difficulty: tuple[int, int] = (1, 4)) -> Path:
    """Arithmetic chains as a jsonl of the library's own row layout."""
    rows = []
    for problem in arithmetic.generate("train", num_problems, seed=7, difficulty=difficulty):
        row = {"id": problem.id, "prompt": problem.prompt, "answer": problem.answer}
        row |= {"demonstration": list(problem.demonstration), "verifier": "math"}
        rows.append(row | {"chosen": problem.chosen, "rejected": problem.rejected})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def short_run(method: str) -> dict[str, Any]:
    """Options with which a run of a few steps gets everywhere: few rounds of sampling, few waiting problems."""
    options = {"max_num_gen_batches": 2, "num_waiting": 4, "min_reward_std": 0.0}
    short = {name: value for name, value in options.items() if name in methods.parameters(methods.find(method))}
    has_mini_batches = as_schedule(methods.build(method)).run.get("num_mini_batches", 1) > 1
    return short | ({"num_mini_batches": 2} if has_mini_batches else {})


def other_model(model: Path) -> Path:
    """The folder of a teacher beside the model: the same shapes and tokenizer, other weights; written once."""
    folder = model.with_name(f"{model.name}-teacher")
    if not folder.exists():
        part = model.with_name(f"{folder.name}-{os.getpid()}")
        shutil.copytree(model, part)
        draw = torch.Generator().manual_seed(1)
        weights = load_file(part / "model.safetensors")
        for matrix in (weight for weight in weights.values() if weight.ndim > 1):
            matrix += 0.5 * matrix.std() * torch.randn(matrix.shape, generator=draw)
        save_file(weights, part / "model.safetensors", metadata={"format": "pt"})
        part.rename(folder)
    return folder


def reads_another_model(method: str) -> bool:
    """Whether a teacher of the method is another model, which a run has to name."""
    stages = as_schedule(methods.build(method)).methods
    return any(stage.teacher is not None and stage.teacher.who == "model" for stage in stages)


def config(
    method: str, folder: Path, model: Path | str, dataset: Path | str = "arithmetic", **options: Any
) -> TrainConfig:
    """A resolved configuration; `num_generations` is only given to methods that have it.

    A method whose teacher is another model gets one with other weights.
    """
    given = {**SMALL, "model": str(model), "dataset": str(dataset), "output_dir": str(folder), **options}
    make = methods.find(method)
    if "num_generations" in methods.parameters(make):
        given.setdefault("num_generations", 3)
    if ":" not in method and reads_another_model(method) and Path(model).is_dir():
        given.setdefault("teacher_model", str(other_model(Path(model))))
    return resolve(method, make, given)


def fingerprint(folder: Path, step: int) -> dict[str, str]:
    """sha256 of everything a checkpoint holds that must not differ between equal runs."""
    files = ("model.safetensors", "optimizer.safetensors", "state.json")
    place = folder / f"checkpoint-{step}"
    return {name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in files}


def completions(path: Path) -> list[dict[str, Any]]:
    """The rows of a step's samples without log-probs, which several ranks round in another order."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name not in ("behavior", "teacher")} for row in rows]


def figures(folder: Path) -> list[dict[str, float]]:
    """The metrics rows without what a clock measured."""
    clocked = ("time/", "step_time", "tokens_per_second", "memory/")
    return [
        {name: value for name, value in row.items() if not name.startswith(clocked)}
        for row in RunFolder(folder).metrics()
    ]
