"""Every method on the embedded model: 30 small steps do what the method is for, and nothing is ever not a number."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import runs
from obverse import methods
from obverse.estimator.schedule import as_schedule
from obverse.runtime.run_dir import RunFolder
from obverse.training.loop import train

SMALL = {
    "dataset": "arithmetic:1-4",
    "num_problems": 400,
    "prompts_per_step": 8,
    "num_generations": 4,
    "max_completion_length": 48,
    "max_steps": 30,
    "learning_rate": 2e-4,
    "imitation_learning_rate": 2e-4,
    "log_completions": False,
    "seed": 3,
}
# What a short run needs of a method whose paper had hundreds of steps, or of one that samples until a batch is full.
ALSO = {
    "dapo": {"max_num_gen_batches": 2},
    "nft": {"max_num_gen_batches": 2},
    "relift": {"num_waiting": 8},
    "reft": {"sft_share": 0.3},
    "passk": {"k": 2},  # a quarter of 4 samples is 1, which is pass@1
    "reward_model": {"learning_rate": 1e-3},
    "srl": {"dataset": "arithmetic:4-6", "num_generations": 8, "temperature": 1.2},  # chains that the base varies
}
# The embedded model cannot read a solution in its prompt, so that what it learns from itself behind one is that it
# gets nearer to it, and not to solve problems.
# It writes one step of a solution, which evaluations of whole problems do not count as solved.
WRITES_STEPS = {"srl"}
DISTILLS_ITSELF = {"opsd", "sdft", "sdpo"}


def solved(folder: Path, step: int) -> float:
    """pass@1 on the held-out problems at a step; both steps draw with the same seeds."""
    found = json.loads((folder / "eval" / f"step-{step:06d}.json").read_text())
    return float(found["all"]["pass@1"])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A model that solves more problems than the embedded one: SFT with more problems in a step, trained once."""

    @cache
    def trained() -> Path:
        options = {**SMALL, "prompts_per_step": 32, "max_steps": 60}
        options.pop("num_generations")
        folder = tmp_path_factory.mktemp("teacher") / "run"
        train(runs.config("sft", folder, "embedded", **options))  # type: ignore[arg-type]
        return folder / "checkpoint-60"

    return trained


SHORT = {"reward_model"}  # law 6 has one step of every method, the demo a run of two


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.slow) for name in methods.names()]
)
def test_thirty_steps_do_what_the_method_is_for(name: str, teacher: Callable[[], Path], tmp_path: Path) -> None:
    schedule = as_schedule(methods.build(name))
    known = methods.parameters(methods.find(name))
    options = {**SMALL, **ALSO.get(name, {})}
    if any(method.grades for method in schedule.methods) and name not in DISTILLS_ITSELF | WRITES_STEPS:
        options |= {"eval_dataset": "arithmetic:1-4", "eval_steps": 30, "num_eval_problems": 60}
    if "num_generations" not in known:
        options.pop("num_generations")
    if runs.reads_another_model(name):
        options["teacher_model"] = str(teacher())
    config = runs.config(name, tmp_path / "run", "embedded", **options)  # type: ignore[arg-type]
    folder = train(config).folder
    rows = RunFolder(folder).metrics()
    assert len(rows) == 30
    assert all(math.isfinite(value) for row in rows for value in row.values())

    def rise(figure: str) -> float:
        values = [row[figure] for row in rows if figure in row]
        third = len(values) // 3
        return sum(values[-third:]) / third - sum(values[:third]) / third

    if "eval_dataset" in options:
        assert solved(folder, 30) > solved(folder, 0) + 0.02
    elif name in WRITES_STEPS:
        assert rise("reward") > 0.02
    elif any("teacher/kl" in row for row in rows):
        for row in rows:  # the objective sums over a sample's tokens: the steps have equally many samples
            row["distance"] = row.get("teacher/kl", 0.0) * row["tokens/teacher"]
        assert rise("distance") < 0
    elif "rewards/margins" in rows[0]:
        # sure from the start: without an initial model to compare with; single responses have no accuracies
        is_sure = rows[0].get("rewards/accuracies", 1) == 1
        assert rise("rewards/margins") > 0 and (is_sure or rise("rewards/accuracies") > 0)
    elif "nll" in rows[0]:
        assert rise("nll") < 0
    else:  # no labels at all: what the model wrote becomes likelier
        assert rise("loss") < 0
