"""The costs of each recipe: memory per GPU by the plan, operations, and GPU hours at measured speeds.

    python -m recipes.costs MODELS            # MODELS: a folder of folders with the models' config.json
    python -m recipes.costs MODELS --write    # into the comments of the recipes

Operations: 2 per parameter and generated token, 6 per trained one (docs/compare.md). Mean lengths of texts are
assumptions. Speeds are those of one H100 in docs/speed.md: training at 35 % of 760 TFLOP/s, sampling by the embedded
sampler at 32 TFLOP/s; recomputing layers (gradient checkpointing) is a third more.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from obverse.config.resolve import resolve
from obverse.config.train import TrainConfig
from obverse.config.yaml_file import read
from obverse.memory_plan.lengths import lengths
from obverse.memory_plan.plan import Plan, plan
from obverse.methods import find
from obverse.models.load import local_config

HERE = Path(__file__).parent
TRAINING, SAMPLING = 0.35 * 760e12, 32e12  # operations per second of one H100, measured on case F
RECOMPUTED = 8 / 6  # a second forward pass


@dataclass(frozen=True)
class Assumed:
    """Assumptions: mean tokens of a completion and of a demonstration, and the number of GPUs."""

    model: str
    rollouts: int  # per problem
    demonstrations: int  # per problem
    completion: int
    demonstration: int
    gpus: int


RECIPES = {
    "hpt-qwen2.5-math-7b": Assumed("qwen2.5-math-7b", 8, 1, 2_048, 4_096, 8),
    "hpt-qwen2.5-math-1.5b": Assumed("qwen2.5-math-1.5b", 8, 1, 2_048, 4_096, 8),
    "hpt-llama-3.1-8b": Assumed("llama-3.1-8b", 8, 1, 2_048, 4_096, 8),
    "luffy-qwen2.5-math-7b": Assumed("qwen2.5-math-7b", 7, 1, 2_048, 4_096, 8),
    "uft-countdown-qwen2.5-0.5b": Assumed("qwen2.5-0.5b", 4, 0, 256, 0, 1),
    "dft-numinamath-qwen2.5-math-1.5b": Assumed("qwen2.5-math-1.5b", 0, 1, 0, 400, 4),
}


def configuration(name: str, model: str) -> TrainConfig:
    """A recipe with the model's folder in place of its hub name."""
    file = read(HERE / f"{name}.yaml")
    method = str(file.values["method"])
    return resolve(method, find(method), {"model": model}, file)


def expected(config: TrainConfig, gpus: int) -> Plan:
    """The memory plan of a rank."""
    return plan(config, lengths(config)[0], gpus)


def operations(config: TrainConfig, about: Assumed) -> tuple[float, float]:
    """The operations of all sampling, and of all training."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(local_config(config.model))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    steps = config.max_steps if config.max_steps > 0 else -(-(config.num_problems or 0) // config.prompts_per_step)
    generated = steps * config.prompts_per_step * about.rollouts * about.completion
    trained = generated + steps * config.prompts_per_step * about.demonstrations * about.demonstration
    return 2.0 * parameters * generated, 6.0 * parameters * trained


def comment(name: str, models: Path) -> list[str]:
    """The lines of a recipe's comment."""
    about = RECIPES[name]
    config = configuration(name, str(models / about.model))
    memory, (sampling, training) = expected(config, about.gpus), operations(config, about)
    recomputation = RECOMPUTED if config.gradient_checkpointing else 1.0
    hours = (sampling / SAMPLING + recomputation * training / TRAINING) / 3600
    cards = f"on each of {about.gpus} GPUs" if about.gpus > 1 else "on one GPU"
    texts = [f"completions of {about.completion:,}"] if about.rollouts else []
    texts += [f"demonstrations of {about.demonstration:,}"] if about.demonstrations else []
    return [
        f"# Memory by the plan, {cards}: {memory.peak / 1e9:.0f} GB at the peak "
        f"({memory.training / 1e9:.0f} training, {memory.sampling / 1e9:.0f} sampling).",
        f"# Cost with {' and '.join(texts)} tokens on average (assumed): {sampling + training:.1e} operations "
        f"({sampling:.1e} sampling),",
        f"# {hours:,.0f} H100 hours: training at 35 % of 760 TFLOP/s, sampling at 32 TFLOP/s (docs/speed.md).",
    ]


def write(name: str, lines: list[str]) -> None:
    """Replace the costs in the recipe's comment."""
    path = HERE / f"{name}.yaml"
    head, _, options = path.read_text(encoding="utf-8").partition("\nmethod:")
    comment_head = head[: head.rindex("\n#\n") + 3]
    path.write_text(comment_head + "\n".join(lines) + "\nmethod:" + options, encoding="utf-8")


def main() -> None:
    """Print or write the comments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("--write", action="store_true", help="into the recipes")
    parser.add_argument("--only", choices=RECIPES)
    chosen = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for name in [chosen.only] if chosen.only else RECIPES:
        lines = comment(name, chosen.models)
        print(name, *lines, sep="\n", flush=True)
        if chosen.write:
            write(name, lines)


if __name__ == "__main__":
    main()
