"""Stored losses and gradient norms of a short run of every method, which a refactoring must reproduce.

    PYTHONPATH=.:tests python tests/reliability/traces.py [METHOD ...]    # writes tests/data/traces/METHOD.json

Without a name it writes all. `make methods` writes those that are missing. Existing ones are only rewritten by a change
that is meant to alter numbers, which the changelog then says. A trace names the machine class that made it: kernels of
another one round differently, and after some steps a sampled token differs.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny

import runs
from obverse import methods
from obverse.runtime.callbacks import Silent
from obverse.runtime.run_dir import RunFolder
from obverse.training.loop import train

FOLDER = Path(__file__).parents[1] / "data" / "traces"
FIGURES = ("loss", "grad_norm")
SHORT, LONG = 20, 100  # steps


def machine() -> dict[str, str]:
    """The software and hardware that decide how sums are rounded."""
    vendor = [line for line in _processor() if line.startswith("vendor_id")]
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "vendor": vendor[0].partition(":")[2].strip() if vendor else platform.processor(),
    }


def _processor() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def sharp(folder: Path) -> Path:
    """A random model of two layers with a spread of logits of about 2; those of `save_tiny` are nearly equal."""
    save_tiny("qwen2", folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] *= 20
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def parity_reward(folder: Path) -> str:
    """A reward with correct and incorrect answers in most groups, although a random model solves nothing."""
    file = folder / "reward.py"
    file.write_text("def parity(problem, text):\n    return sum(map(ord, text)) % 2\n")
    return f"{file}:parity"


class StopAfter(Silent):
    """Breaks a run off behind a step, as Ctrl-C would."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps

    def step(self, step: int, total_steps: int, metrics: object) -> None:
        if step == self.num_steps:
            raise KeyboardInterrupt


def trace(
    method: str, num_steps: int, root: Path, model: Path, stop_after: int | None = None
) -> dict[str, list[float]]:
    """The figures of each step of a run; 0 for a step that had nothing to train on.

    Schedules are those of `num_steps`; with `stop_after` the run is broken off behind that step.
    """
    options = {"max_steps": num_steps, "log_completions": False, "dtype": "float32", "threads": 1, "device": "cpu"}
    options |= {"dataset": str(runs.write_problems(root / "chains.jsonl")), "verifier": parity_reward(root)}
    folder = root / f"{method}-{num_steps}"
    config = runs.config(method, folder, model, **options, **runs.short_run(method))
    with suppress(KeyboardInterrupt):
        train(config, StopAfter(stop_after or num_steps + 1))
    rows = RunFolder(folder).metrics()
    return {name: [float(f"{row.get(name, 0.0):.9g}") for row in rows] for name in FIGURES}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for method in sys.argv[1:] or methods.names():
        with tempfile.TemporaryDirectory() as folder:
            model = sharp(Path(folder) / "model")
            traces = {str(num): trace(method, num, Path(folder), model) for num in (SHORT, LONG)}
        content = {"made_on": machine(), **traces}
        text = ",\n".join(f" {json.dumps(name)}: {json.dumps(part)}" for name, part in content.items())
        (FOLDER / f"{method}.json").write_text(f"{{\n{text}\n}}\n")
        print(f"{method}: {traces[str(SHORT)]['loss'][0]:.6g} to {traces[str(LONG)]['loss'][-1]:.6g}", flush=True)


if __name__ == "__main__":
    main()
