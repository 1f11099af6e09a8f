"""The committed comparison: every kind of method on the embedded task, with a real gap between its levels.

    make science                  # data, comparison, docs/results.md; about an hour on two cores, can be resumed
    python -m recipes.science --budget 20K --seeds 1 --output_dir runs/small --page none     # the same, small

Training has problems of 1 to 6 operations; some of them have a demonstration, the others only an answer. The base
solves chains of up to 3 operations and none of 4 to 6. Out of distribution are longer chains, and countdown, on which
the base was trained too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from obverse.comparison.export import markdown
from obverse.comparison.plan import Plan, make_plan
from obverse.comparison.run import compare
from obverse.comparison.standings import standings
from obverse.config.compare import CompareConfig
from obverse.config.resolve import read
from obverse.config.sources import Layer
from obverse.data import load_dataset
from obverse.types import Problem
from recipes import published

Row = dict[str, Any]

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"

NUM_PROBLEMS = 320
NUM_DEMONSTRATIONS = 120  # problems with a demonstration: so few that imitation alone memorizes them
NUM_SEEN = 90  # of those are also a test, of memorization
DATA_SEED = 11

METHODS = (
    "sft",
    "dft",
    "grpo",
    "dr_grpo",
    "sft_then_rl",
    "luffy",
    "srft",
    "uft",
    "prefix_rft",
    "relift,num_waiting=16",  # the number of problems of a step, the proportion of its paper
    "hpt",
    "hpt,gate=1",
    "hpt,gate=2",
    "hpt,failed=off_policy",
    "hpt,failed=mixed",
)
BASELINES = ("sft", "dft", "grpo", "dr_grpo", "sft_then_rl")
TESTS = {
    "easy": "arithmetic:1-3",
    "medium": "arithmetic:4",
    "hard": "arithmetic:5-6",
    "ood-longer": "arithmetic:7-8@ood",
    "ood-countdown": "countdown:2-3",
}
OPTIONS: dict[str, Any] = {
    "methods": METHODS,
    "baselines": BASELINES,
    "budget": "400K",
    "seeds": 3,
    "learning_rates": (1e-4, 3e-4, 1e-3),
    "prompts_per_step": 16,
    "num_generations_test": 16,
    "k": (1, 16),
    "num_test_problems": 90,
    "num_marks": 8,
    "jobs": 2,
}


def main() -> int:
    options = arguments("science")
    page = Path(options.pop("page"))
    code, plan = run(options, OPTIONS)
    if code == 0 and page.is_file():
        text = page.read_text(encoding="utf-8")
        text = between(text, "standings", markdown(standings(plan), links=False, sentences=False))
        page.write_text(between(text, "published", published.table(plan)), encoding="utf-8")
        print(f"{page}: the tables")
    return code


def run(
    options: Mapping[str, Any], defaults: Mapping[str, Any], change: Callable[[Row], Row] = dict
) -> tuple[int, Plan]:
    """Run the comparison with the problems of `write_data`, beside its folder; its exit code and its plan.

    `change` is applied to each row of the training problems.
    """
    config = read(CompareConfig, [Layer("command line", options), Layer("recipe", defaults)], "see recipes/science.py")
    data = data_folder(options["output_dir"])
    write_data(data, change)
    tests = {**TESTS, "seen": str(data / "seen.jsonl")}
    more = {
        "dataset": str(data / "train.jsonl"),
        "tests": tuple(f"{name}={dataset}" for name, dataset in tests.items()),
    }
    plan = make_plan(CompareConfig(**{name: getattr(config, name) for name in config.model_fields_set}, **more))
    return compare(plan, Console(highlight=False, width=None if sys.stdout.isatty() else 160)), plan


def data_folder(output_dir: str) -> Path:
    """The folder of a comparison's data, beside that of the comparison."""
    return Path(f"{output_dir}-data")


def between(page: str, name: str, text: str) -> str:
    """The page with `text` between the comments of a name."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n\n{text}\n{end}{rest.partition(end)[2]}"


def arguments(name: str) -> dict[str, Any]:
    """The options of the comparison `name` that are given on the command line."""
    parser = argparse.ArgumentParser(description=f"python -m recipes.{name}: a committed comparison")
    parser.add_argument("--output_dir", default=f"runs/{name}")
    parser.add_argument("--page", default=str(PAGE), help="the page that gets the table; none: no page")
    parser.add_argument("--methods")
    for option in ("budget", "seeds", "jobs", "num_test_problems", "num_generations_test", "k", "learning_rates"):
        parser.add_argument(f"--{option}")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    return given | ({"baselines": None} if "methods" in given else {})


def write_data(folder: Path, change: Callable[[Row], Row] = dict) -> None:
    """Write the training problems, and those with a demonstration that are also a test."""
    problems = load_dataset("arithmetic:1-6", num_problems=NUM_PROBLEMS, seed=DATA_SEED)
    folder.mkdir(parents=True, exist_ok=True)
    demonstrated = sorted(problems, key=lambda problem: problem.uniform)[:NUM_DEMONSTRATIONS]
    write(folder / "train.jsonl", [change(as_row(problem, problem in demonstrated)) for problem in problems])
    write(folder / "seen.jsonl", [as_row(problem, False) for problem in demonstrated[:NUM_SEEN]])


def as_row(problem: Problem, has_demonstration: bool) -> dict[str, Any]:
    row = {"id": problem.id, "prompt": problem.prompt, "answer": problem.answer, "verifier": problem.verifier}
    row |= {"difficulty": problem.meta["difficulty"]}
    return row | ({"demonstration": list(problem.demonstration)} if has_demonstration else {})


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
