"""The stored course of a short run of every method: what a change that should alter nothing must reproduce.

    python tests/reliability/traces.py [METHOD ...]    # writes tests/data/traces/METHOD.json anew, all without a name

Written anew only with a change that is meant to alter numbers; the changelog says so then. A trace names the machine
class that made it: kernels of another one round otherwise, and after some steps a sampled token differs.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny

import runs
from obverse import methods
from obverse.runtime.run_dir import RunFolder
from obverse.training.loop import train

FOLDER = Path(__file__).parents[1] / "data" / "traces"
FIGURES = ("loss", "grad_norm")
SHORT, LONG = 20, 100  # steps: of every change, of a release
# What a short run needs of a method that samples until a batch is full, or waits for many problems.
ALSO: dict[str, dict[str, Any]] = {
    "dapo": {"max_num_gen_batches": 2},
    "nft": {"max_num_gen_batches": 2},
    "relift": {"num_waiting": 4},
}


def machine() -> dict[str, str]:
    """What decides how sums are rounded, as far as this program can see."""
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
    """A random model of two layers whose logits spread by about 2: those of a plain one are nearly equal."""
    save_tiny("qwen2", folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] *= 20
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def uniforms(folder: Path) -> str:
    """A reward by which most groups have right and wrong answers: a random model solves nothing."""
    file = folder / "reward.py"
    file.write_text("def lucky(problem, text):\n    return sum(map(ord, text)) % 2\n")
    return f"{file}:lucky"


def trace(method: str, num_steps: int, root: Path, model: Path) -> dict[str, list[float]]:
    """The figures of a run, step by step; a step without one (nothing to train on) has 0."""
    options = {"max_steps": num_steps, "log_completions": False, "dtype": "float32", "threads": 1, "device": "cpu"}
    options |= {"dataset": str(runs.write_problems(root / "chains.jsonl")), "verifier": uniforms(root)}
    folder = root / f"{method}-{num_steps}"
    train(runs.config(method, folder, model, **options, **ALSO.get(method, {})))
    rows = RunFolder(folder).metrics()
    return {name: [float(f"{row.get(name, 0.0):.9g}") for row in rows] for name in FIGURES}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for method in sys.argv[1:] or methods.names():
        with tempfile.TemporaryDirectory() as place:
            model = sharp(Path(place) / "model")
            made = {str(num): trace(method, num, Path(place), model) for num in (SHORT, LONG)}
        parts = {"made_on": machine(), **made}
        text = ",\n".join(f" {json.dumps(name)}: {json.dumps(part)}" for name, part in parts.items())
        (FOLDER / f"{method}.json").write_text(f"{{\n{text}\n}}\n")
        print(f"{method}: {made[str(SHORT)]['loss'][0]:.6g} to {made[str(LONG)]['loss'][-1]:.6g}", flush=True)


if __name__ == "__main__":
    main()
