"""`make bench-limit`: efficiency relative to the machine, and the growth of time and memory.

    python -m bench.limit                # both
    python -m bench.limit --only limit   # operations needed over the measured rate of matrix products, per phase
    python -m bench.limit --only growth  # over 8-fold ranges: exponents and a picture

The operations needed are those of an ideal program: a prompt once per group, forward and backward (twice the forward
pass), the head at response tokens only, nothing computed twice. The rate is that of a large square matrix product in
the same process, between the steps, in the same dtype.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from transformers import AutoTokenizer

from bench.cases import CASES, Case, Shape
from bench.machine import describe
from bench.material import model_folder, problem_file
from bench.run import RESULTS, Worker
from obverse.data import load_dataset
from obverse.report.pictures import write_picture
from obverse.report.svg_chart import Chart, Series, side_by_side

EMBEDDED = Shape(width=128, layers=4, heads=4, kv_heads=4, inner=480, num_tokens=258)
BACKWARD = 2  # operations of a backward pass over those of its forward pass
LIMIT_CASES = {"A-uneven": 5, "B": 2, "D": 3}  # steps of each

# The smallest size of the growth: eight times each still takes seconds.
SEED = Case(
    "growth",
    "a small GRPO step",
    "own",
    Shape(width=128, layers=2, heads=4, kv_heads=2, inner=512, num_tokens=8192),
    prompts=4,
    generations=4,
    max_new=32,
    prompt_tokens=32,
    reward="uneven",
    options={"beta": 0.0},
)
FACTORS = (1, 2, 4, 8)
GROWTH_STEPS = 3


def forward(shape: Shape, prompts: int, prompt: float, rows: int, response: float) -> float:
    """Operations of a forward pass over `rows` responses to `prompts` prompts of these mean lengths; no head."""
    head_size = shape.width // shape.heads
    matrices = shape.layers * (
        2 * shape.width**2 + 2 * shape.width * shape.kv_heads * head_size + 3 * shape.width * shape.inner
    )
    tokens = prompts * prompt + rows * max(response - 1, 0)  # nothing is predicted after the last token
    pairs = prompts * prompt * (prompt + 1) / 2 + rows * (response * prompt + response * (response + 1) / 2)
    return 2 * matrices * tokens + 4 * shape.layers * shape.width * pairs


def head(shape: Shape, tokens: float) -> float:
    """Operations of the language-model head, forward."""
    return 2 * shape.width * shape.num_tokens * tokens


def needed(case: Case, generated: float, trained: float, prompt: float) -> dict[str, float]:
    """Operations per phase of one step."""
    shape, rows = case.shape or EMBEDDED, case.prompts * case.generations
    sample = forward(shape, case.prompts, prompt, rows, generated / rows) + head(shape, generated)
    train = forward(shape, case.prompts, prompt, rows, trained / rows) + head(shape, trained)
    return {"sample": sample if generated else 0.0, "train": (1 + BACKWARD) * train if trained else 0.0}


def limits(case: Case, steps: int, device: str, dtype: str) -> dict[str, Any]:
    """Per phase: seconds, operations needed, and their share of the operations that the rate allows in that time."""
    worker = Worker("obverse", case, device, dtype, 1)
    worker.ask("step")
    rows = []
    for _ in range(steps):
        before = worker.ask("rate")["rate"]
        row = worker.ask("step")
        row["rate"] = (before + worker.ask("rate")["rate"]) / 2
        rows.append(row)
    worker.end()
    prompt = prompt_length(case)
    result: dict[str, Any] = {"rate": median(row["rate"] for row in rows)}
    for phase in ("sample", "train"):
        shares, seconds, work = [], [], []
        for row in rows:
            operations = needed(case, row["generated"], row["trained"], prompt)[phase]
            if operations and phase in row["seconds"]:
                shares.append(operations / row["seconds"][phase] / row["rate"])
                seconds.append(row["seconds"][phase])
                work.append(operations)
        if shares:
            result[phase] = {"share": median(shares), "seconds": median(seconds), "operations": median(work)}
    return result


def prompt_length(case: Case) -> float:
    """The mean length of a prompt, in tokens."""
    if case.prompt_tokens:
        return case.prompt_tokens
    tokenizer = AutoTokenizer.from_pretrained(model_folder(case))
    texts = [str(problem.prompt) for problem in load_dataset(problem_file(case))]
    return sum(map(len, tokenizer(texts)["input_ids"])) / len(texts)


def grown(name: str, factor: int) -> Case:
    """SEED with one of its sizes multiplied by `factor`."""
    shape = SEED.shape
    assert shape is not None
    if name == "completions":
        return replace(SEED, generations=SEED.generations * factor)
    if name == "length":
        return replace(SEED, max_new=SEED.max_new * factor)
    if name == "vocabulary":
        return replace(SEED, shape=replace(shape, num_tokens=shape.num_tokens * factor))
    return replace(SEED, shape=replace(shape, width=shape.width * factor, inner=shape.inner * factor))


def growth(name: str, device: str, dtype: str) -> dict[str, Any]:
    """Step time, its phases and peak memory for each factor, and their fitted exponents."""
    measured: dict[str, list[float]] = {"step": [], "sample": [], "train": [], "memory": []}
    for factor in FACTORS:
        worker = Worker("obverse", grown(name, factor), device, dtype, 1)
        worker.ask("step")
        rows = [worker.ask("step") for _ in range(GROWTH_STEPS)]
        for phase in ("step", "sample", "train"):
            measured[phase].append(median(row["seconds"][phase] for row in rows))
        measured["memory"].append(worker.ask("memory")["peak"])
        worker.end()
        print(name, factor, *(f"{values[-1]:.3g}" for values in measured.values()), flush=True)
    return {"measured": measured, "exponents": {quantity: exponent(values) for quantity, values in measured.items()}}


def exponent(values: list[float]) -> float:
    """The slope of log value over log factor, by least squares."""
    xs, ys = [math.log(factor) for factor in FACTORS], [math.log(value) for value in values]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def plot(growths: dict[str, Any], path: Path) -> None:
    """Time and memory relative to the smallest size, in powers of two over a logarithmic axis: a chart per size."""
    charts = []
    for name, entry in growths.items():
        series = [
            Series(
                f"{quantity} {entry['exponents'][quantity]:.2f}",
                FACTORS,
                tuple(math.log2(value / values[0]) for value in values),
                marks=True,
            )
            for quantity, values in entry["measured"].items()
        ]
        linear = Series("linear 1", FACTORS, tuple(map(math.log2, FACTORS)), color=6)
        chart = Chart(f"{name}, times", "log2 of the growth, with its exponent", (*series, linear), log_x=True)
        charts.append((chart, f"Growth with {name}"))
    write_picture(side_by_side(charts, columns=2), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("limit", "growth"))
    parser.add_argument("--cases", help="for the limit: names with commas")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    about = {"machine": describe(arguments.device), "dtype": arguments.dtype, "when": time.strftime("%Y-%m-%d %H:%M")}
    arguments.results.mkdir(parents=True, exist_ok=True)
    if arguments.only != "growth":
        names = arguments.cases.split(",") if arguments.cases else list(LIMIT_CASES)
        results: dict[str, Any] = {}
        for name in names:
            results[name] = limits(CASES[name], LIMIT_CASES.get(name, 3), arguments.device, arguments.dtype)
            for phase in ("sample", "train"):
                if phase in results[name]:
                    row = results[name][phase]
                    print(f"{name} {phase}: {row['operations'] / 1e9:.0f} GFLOP in {row['seconds']:.2f} s, "
                          f"{row['share']:.0%} of {results[name]['rate'] / 1e9:.0f} GFLOP/s", flush=True)  # fmt: skip
        (arguments.results / "limit.json").write_text(json.dumps(about | {"limits": results}, indent=1) + "\n")
    if arguments.only != "limit":
        growths = {
            name: growth(name, arguments.device, arguments.dtype)
            for name in ("completions", "length", "vocabulary", "width")
        }
        (arguments.results / "growth.json").write_text(json.dumps(about | {"growth": growths}, indent=1) + "\n")
        plot(growths, arguments.results / "growth.png")


if __name__ == "__main__":
    main()
