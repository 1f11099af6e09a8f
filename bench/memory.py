"""The memory plan compared with real runs: `python -m bench.memory`, a table of predicted and measured peaks.

Every case runs in a separate process: libraries are loaded and warmed up by a tiny run, then the system's peak of
resident memory is reset, and two steps of the case are taken. The measurement is that peak minus the resident memory
before: once with an allocator that returns freed memory at once, and once with the default one. glibc keeps free blocks
of less than 32 MB, which is unpredictable and matters for small models. Needs Linux.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.cases import HALF, Shape
from bench.machine import describe
from bench.material import HOME, NUM_SINGLE, SPACE, random_model, vocabulary, words
from obverse.config.resolve import resolve
from obverse.memory_plan.batch_shapes import Lengths
from obverse.memory_plan.machine import resident
from obverse.memory_plan.plan import plan
from obverse.methods import find
from obverse.training.loop import train

TINY = Shape(width=64, layers=2, heads=4, kv_heads=2, inner=128, num_tokens=600)
SMALL = Shape(width=256, layers=6, heads=8, kv_heads=4, inner=1024, num_tokens=8_192)
MIDDLE = Shape(width=640, layers=10, heads=10, kv_heads=2, inner=2560, num_tokens=32_000)
LARGE = Shape(width=768, layers=12, heads=12, kv_heads=12, inner=3072, num_tokens=50_000, tied=False)
NUM_STEPS = 2  # the optimizer has its moments from the second step on
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # every larger block has separate pages
RESULTS = Path("bench/results/memory.json")


@dataclass(frozen=True)
class Case:
    """A method on a random model: prompts of `prompt` tokens, texts and completions of `text` tokens."""

    method: str
    shape: Shape
    prompt: int
    text: int
    problems: int
    options: dict[str, Any] = field(default_factory=dict)


QUICK = Shape(width=256, layers=3, heads=8, kv_heads=4, inner=1024, num_tokens=4_096)
OWN: dict[str, Any] = {"num_generations": 8}
CASES = {
    "sft-small": Case("sft", SMALL, 64, 192, 16),
    "sft-small-4096": Case("sft", SMALL, 64, 192, 32, {"micro_batch_tokens": 4096}),
    "sft-small-4096-checkpointing": Case(
        "sft", SMALL, 64, 192, 32, {"micro_batch_tokens": 4096, "gradient_checkpointing": True}
    ),
    "grpo-small": Case("grpo", SMALL, 64, 128, 8, OWN | {"beta": 0.0}),
    "grpo-small-sampling": Case("grpo", SMALL, 32, 224, 16, OWN | {"beta": 0.0, "micro_batch_tokens": 128}),
    "dpo-small": Case("dpo", SMALL, 128, 128, 4),
    "ppo-small": Case("ppo", SMALL, 64, 64, 8),
    "hpt-small": Case("hpt", SMALL, 64, 192, 4, OWN),
    "sft-middle": Case("sft", MIDDLE, 128, 384, 2),
    "sft-middle-mixed": Case("sft", MIDDLE, 128, 384, 2, {"dtype": "mixed"}),
    "sft-middle-bfloat16": Case("sft", MIDDLE, 128, 384, 2, {"dtype": "bfloat16"}),
    "sft-middle-lora": Case("sft", MIDDLE, 128, 384, 2, {"use_peft": True}),
    "asft-small": Case("asft", SMALL, 64, 192, 16),
    "asft-small-lora": Case("asft", SMALL, 64, 192, 16, {"use_peft": True}),
    "sft-large": Case("sft", LARGE, 64, 192, 2, {"micro_batch_tokens": 256}),
    "sft-half": Case("sft", HALF, 1, 255, 2, {"gradient_checkpointing": True, "micro_batch_tokens": 256}),
}
SUITE = {  # run by the tests
    "suite-sft": Case("sft", QUICK, 128, 384, 8, {"micro_batch_tokens": 2048}),
    "suite-grpo": Case("grpo", QUICK, 64, 128, 8, OWN | {"beta": 0.0}),
}


def model_folder(shape: Shape) -> str:
    """The directory of the shape's random model, created if it does not exist."""
    folder = HOME / "models" / f"memory-{shape.width}-{shape.layers}-{shape.num_tokens}"
    if not (folder / "tokenizer.json").exists():
        torch.manual_seed(0)
        random_model(shape).save_pretrained(folder)
        words(shape.num_tokens).save_pretrained(folder)
    return str(folder)


def problem_file(case: Case, folder: Path) -> str:
    """Random words; texts have equal lengths, every other prompt is one word shorter, so that there is padding."""
    rng, names = random.Random(0), vocabulary(case.shape.num_tokens)
    say = lambda num: "".join(rng.choices(names[NUM_SINGLE:], k=num)).replace(SPACE, " ")  # noqa: E731
    rows = [
        {"id": str(number), "prompt": "q" + say(case.prompt - 1 - number % 2), "answer": "a", "verifier": "exact"}
        | {"demonstration": say(case.text - 1), "chosen": say(case.text - 1), "rejected": say(case.text - 1)}
        for number in range(2 * case.problems)
    ]
    unused = ("answer", "verifier", "demonstration") if case.method == "dpo" else ("chosen", "rejected")
    path = folder / "rows.jsonl"
    read_rows = [{key: value for key, value in row.items() if key not in unused} for row in rows]
    text = "".join(json.dumps(row) + "\n" for row in read_rows)
    path.write_text(text, encoding="utf-8")
    return str(path)


def configuration(case: Case, folder: Path) -> Any:
    """The configuration of a case's run, by default in float32, on one thread."""
    options = {
        "model": model_folder(case.shape),
        "dataset": problem_file(case, folder),
        "chat_template": "none",
        "prompts_per_step": case.problems,
        "max_completion_length": case.text,
        "max_steps": NUM_STEPS,
        "threads": 1,
        "device": "cpu",
        "learning_rate": 1e-5,
        "report": False,
        "log_completions": False,
        "output_dir": folder / "run",
    }
    return resolve(case.method, find(case.method), options | case.options)


def predicted(case: Case) -> dict[str, int]:
    """The bytes of the plan by purpose."""
    with tempfile.TemporaryDirectory() as folder:
        memory = plan(configuration(case, Path(folder)), Lengths(case.prompt, case.text, case.text))
    return {"training": memory.training, "sampling": memory.sampling, "peak": memory.peak}


def measured(case: Case) -> int:
    """The peak of resident bytes during the case, minus those before it."""
    grade_by_text()
    small = Case(case.method, TINY, 8, 8, 2, {**case.options, "micro_batch_tokens": 64})
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        train(configuration(small, Path(first)))
        config = configuration(case, Path(second))
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = resident()
        Path("/proc/self/clear_refs").write_text("5")
        train(config)
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 - before


def grade_by_text() -> None:
    """Replace the graders by random rewards that depend on the text, so that every group has a gradient."""
    from obverse.training import collector as rollout
    from obverse.types import GradeResult

    rollout.grade_completions = lambda pairs, seconds: [  # type: ignore[assignment]
        GradeResult(True, random.Random(text).random()) for _, text in pairs
    ]


def main() -> None:
    """Print predicted and measured peaks of the named cases, or of all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"among {', '.join(CASES)}")
    parser.add_argument("--alone", choices=("predicted", "measured"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        work = {"predicted": predicted, "measured": measured}[arguments.alone]
        print(json.dumps(work((CASES | SUITE)[arguments.cases[0]])))
        return
    cases = json.loads(RESULTS.read_text())["cases"] if RESULTS.exists() else {}
    print("| case | training MB | sampling MB | predicted peak MB | measured MB | error | default malloc MB | error |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.cases or CASES:
        row = json.loads(in_process(name, "predicted", {}))
        row["measured"] = json.loads(in_process(name, "measured", GIVES_BACK))
        row["default malloc"] = json.loads(in_process(name, "measured", {}))
        cases[name] = row
        print(line(name, row), flush=True)
        RESULTS.write_text(json.dumps({"machine": describe("cpu"), "cases": cases}, indent=1) + "\n")


def line(name: str, row: dict[str, int]) -> str:
    """A case's row of the table."""
    sizes = {key: f"{value / 1e6:,.0f}" for key, value in row.items()}
    first = " | ".join(sizes[key] for key in ("training", "sampling", "peak"))
    rest = " | ".join(f"{sizes[key]} | {row['peak'] / row[key] - 1:+.0%}" for key in ("measured", "default malloc"))
    return f"| {name} | {first} | {rest} |"


def in_process(name: str, figure: str, environment: dict[str, str]) -> str:
    """The last line of this program's output for one case, run in a separate process."""
    words = [sys.executable, "-m", "bench.memory", name, "--alone", figure]
    completed = subprocess.run(words, capture_output=True, text=True, env=os.environ | environment)
    if completed.returncode != 0:
        raise SystemExit(f"{name}, {figure}: {completed.stderr.strip().splitlines()[-1]}")
    return completed.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    main()
