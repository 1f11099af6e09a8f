"""C1, C2, C7: a run that is killed or stopped anywhere and goes on is the run that nobody touched, bit for bit."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Count
from reliability.forks import KILLED, Forks, digest, steps

import runs
from obverse import methods
from obverse.errors import CheckpointError
from obverse.runtime import checkpoint
from obverse.runtime.callbacks import Phase, Silent
from obverse.training.loop import train

NUM_STEPS = 4
NUM_CHAINED = 12  # more than ten deaths can get through, at about a step each
SEVERAL = {"num_iterations": 2, "num_mini_batches": 2}
# Each with what it alone keeps: a critic, a schedule of hints, a buffer of problems, moving averages.
RUNS: dict[str, dict[str, Any]] = {
    "sft": {},
    "grpo": SEVERAL,
    "hpt": {},
    "ppo": SEVERAL,
    "uft": {"lr_scheduler_type": "linear"},
    "relift": {"num_waiting": 7},
    "discriminative": {"num_mini_batches": 2},
}
# The others are resumed in `make test` too, stopped at one place: law 12 in tests/exam/test_runs.py.
SHORT = {"ppo"}  # the queue of waiting problems of relift is in law 12
OPTIONS = {"max_steps": NUM_STEPS, "save_steps": 1, "prompts_per_step": 7}  # 4 x 7 of 24 problems cross an epoch


class Field:
    """Where runs of one method are killed: the whole run, and its points behind the first checkpoint."""

    def __init__(
        self,
        forks: Forks,
        root: Path,
        tiny: Path,
        problems: Path,
        method: str,
        num_steps: int,
        count: Count,
        **options: Any,
    ) -> None:
        self.count = count
        self.forks, self.root, self.tiny, self.problems, self.method = forks, root, tiny, problems, method
        self.options = {**OPTIONS, **RUNS.get(method, {}), "max_steps": num_steps, **options}
        self.num_steps = num_steps
        points = self.run("whole")["points"]
        self.first = points.index("save") + next(
            number for number, kind in enumerate(points[points.index("save") :]) if kind != "save"
        )
        self.points = points
        self.expected = digest(root / "whole", num_steps)

    def run(self, name: str, at: int = 0, **options: Any) -> dict[str, Any]:
        return self.forks.run(self.root / name, self.tiny, self.problems, self.method, at, **(self.options | options))

    def spots(self, num: int, seed: int) -> list[int]:
        """Points to be killed at, a third of them inside a save."""
        draw = random.Random(seed)
        later = range(self.first, len(self.points))
        saves = [place for place in later if self.points[place] == "save"]
        return [1 + draw.choice(saves if number % 3 == 0 else later) for number in range(num)]

    def survives(self, at: int, name: str) -> None:
        """Kill a run, go on, and compare all that it leaves."""
        assert self.run(name, at)["code"] == KILLED
        assert self.run(name, resume_from_checkpoint="auto")["code"] == 0
        assert digest(self.root / name, self.num_steps) == self.expected, f"killed at {at}: {self.points[at - 1]}"
        assert steps(self.root / name) == list(range(1, self.num_steps + 1))
        self.count("C1 kills survived")
        if self.points[at - 1] == "save":
            self.count("C1 kills inside a save")


@pytest.mark.parametrize("method", sorted(SHORT))
def test_c1_a_run_that_is_killed_and_goes_on_is_the_whole_run(
    method: str, forks: Forks, tiny: Path, problems: Path, tmp_path: Path, count: Count
) -> None:
    """Once inside a save and once anywhere."""
    field = Field(forks, tmp_path, tiny, problems, method, NUM_STEPS, count)
    for number, at in enumerate(field.spots(2, seed=len(method))):
        field.survives(at, str(number))


@pytest.mark.slow
@pytest.mark.parametrize("method", RUNS)
def test_c1_three_kills(method: str, forks: Forks, tiny: Path, problems: Path, tmp_path: Path, count: Count) -> None:
    field = Field(forks, tmp_path, tiny, problems, method, NUM_STEPS, count)
    for number, at in enumerate(field.spots(3, seed=len(method) + 1)):
        field.survives(at, str(number))


@pytest.mark.slow
def test_c1_a_run_with_adapters_that_is_killed_and_goes_on_is_the_whole_run(
    forks: Forks, tiny: Path, problems: Path, tmp_path: Path, count: Count
) -> None:
    pytest.importorskip("peft", reason="the extra obverse[peft] is not installed")
    (tmp_path / "lucky.py").write_text("def lucky(problem, text):\n    return float(len(text) % 2)\n")
    lucky = {"verifier": f"{tmp_path / 'lucky.py'}:lucky"}  # a random model finds no right answer to learn from
    adapters = {"use_peft": True, "lora_r": 4, "kl_coef": 0.1, "sft_share": 0.5}  # the second stage keeps two sets
    field = Field(forks, tmp_path, tiny, problems, "sft_then_rl", NUM_STEPS, count, **adapters, **lucky)
    assert "checkpoint-4/adapter_model.safetensors" in field.expected
    for number, at in enumerate(field.spots(1, seed=1)):
        field.survives(at, str(number))


@pytest.mark.slow
def test_c2_a_run_that_is_killed_again_and_again_is_the_whole_run(
    forks: Forks, tiny: Path, problems: Path, tmp_path: Path, count: Count
) -> None:
    chain(Field(forks, tmp_path, tiny, problems, "hpt", 6, count), seed=2, num_kills=4)


@pytest.mark.slow
def test_c2_a_run_that_is_killed_ten_times_is_the_whole_run(
    forks: Forks, tiny: Path, problems: Path, tmp_path: Path, count: Count
) -> None:
    chain(Field(forks, tmp_path, tiny, problems, "hpt", NUM_CHAINED, count), seed=2)


def chain(field: Field, seed: int, num_kills: int = 10) -> None:
    """One run that dies several times, each time somewhere in what is left of it, and then goes on to its end."""
    draw, name = random.Random(seed), f"chain-{seed}"
    a_step = (len(field.points) - field.first) // (field.num_steps - 1)
    assert field.run(name, field.first + draw.randrange(a_step))["code"] == KILLED
    for _ in range(num_kills - 1):
        assert field.run(name, draw.randrange(2, a_step * 5 // 4), resume_from_checkpoint="auto")["code"] == KILLED
    assert field.run(name, resume_from_checkpoint="auto")["code"] == 0
    assert digest(field.root / name, field.num_steps) == field.expected
    assert steps(field.root / name) == list(range(1, field.num_steps + 1))
    field.count(f"C2 chains of {num_kills} kills")


@pytest.mark.release
@pytest.mark.parametrize("method", methods.names())
def test_c1_every_method_survives_many_kills(
    method: str, forks: Forks, tiny: Path, problems: Path, tmp_path: Path, count: Count
) -> None:
    field = Field(forks, tmp_path, tiny, problems, method, NUM_STEPS, count)
    for number, at in enumerate(field.spots(int(os.environ.get("OBVERSE_KILLS", "14")), seed=1)):
        field.survives(at, str(number))


@pytest.mark.release
@pytest.mark.parametrize("method", ["sft", "grpo", "ppo", "relift"])
def test_c2_twenty_chains(method: str, forks: Forks, tiny: Path, problems: Path, tmp_path: Path, count: Count) -> None:
    field = Field(forks, tmp_path, tiny, problems, method, NUM_CHAINED, count)
    for seed in range(5):
        chain(field, seed)


def test_c1_a_run_that_died_before_its_first_checkpoint_says_so(
    forks: Forks, tiny: Path, problems: Path, tmp_path: Path, count: Count
) -> None:
    field = Field(forks, tmp_path, tiny, problems, "sft", 2, count)
    assert field.run("early", field.points.index("step 1") + 1)["code"] == KILLED
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        train(runs.config("sft", tmp_path / "early", tiny, problems, resume_from_checkpoint="auto", **field.options))


# C7: signals


class At(Silent):
    """Sends a signal at the first report of a phase after a step, or of loading."""

    def __init__(self, wanted: Phase, number: int, times: int = 1, after: int = 1) -> None:
        self.wanted, self.number, self.times, self.after = wanted, number, times, after
        self.num_steps = 0
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, step: int, total_steps: int, metrics: object) -> None:
        self.num_steps = step

    def phase(self, phase: Phase, done: int, total: int) -> None:
        if phase == self.wanted and (self.num_steps == self.after or phase == "load"):
            while self.times:
                self.times -= 1
                os.kill(os.getpid(), self.number)


def phases_and_signals() -> Iterator[Any]:
    """Every phase with one signal or the other, and slow with both."""
    for number, phase in enumerate(("load", "sample", "grade", "train", "eval", "save")):
        first, second = (signal.SIGINT, signal.SIGTERM)[:: 1 if number % 2 else -1]
        yield pytest.param(phase, first)
        yield pytest.param(phase, second, marks=pytest.mark.slow)


@pytest.mark.parametrize(("phase", "number"), [*phases_and_signals()])
def test_c7_a_signal_in_any_phase_leaves_a_checkpoint_that_goes_on(
    phase: Phase, number: int, whole: Path, tiny: Path, problems: Path, tmp_path: Path, count: Count
) -> None:
    watch = At(phase, number)
    outcome = train(runs.config("grpo", tmp_path, tiny, problems, **SIGNALED), watch)
    assert (outcome.stopped, outcome.exit_code) == (True, 128 + number)
    assert outcome.step == (0 if phase == "load" else 1)
    assert checkpoint.newest(tmp_path) == tmp_path / f"checkpoint-{outcome.step}"
    train(runs.config("grpo", tmp_path, tiny, problems, resume_from_checkpoint="auto", **SIGNALED))
    assert digest(tmp_path, 3) == digest(whole, 3)
    count("C7 runs stopped by a signal")


SIGNALED: dict[str, Any] = {
    "max_steps": 3,
    "save_steps": 1,
    "save_total_limit": 9,
    "eval_dataset": "arithmetic:1",
    "eval_steps": 1,
    "num_eval_problems": 2,
    "num_generations_eval": 1,
}


@pytest.fixture(scope="module")
def whole(tiny: Path, problems: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(runs.config("grpo", folder, tiny, problems, **SIGNALED))
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_c7_a_second_signal_breaks_the_save_off_and_the_checkpoint_before_stays(
    number: int, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    handler = signal.getsignal(number)
    train(runs.config("sft", tmp_path, tiny, problems, max_steps=1))
    watch = At("save", number, times=2, after=2)
    given = {"max_steps": 3, "save_steps": 1, "resume_from_checkpoint": "auto"}
    outcome = train(runs.config("sft", tmp_path, tiny, problems, **given), watch)
    assert (outcome.stopped, outcome.exit_code) == (True, 75)
    assert any("checkpoint-1" in note for note in watch.notes)
    assert [path.name for path in checkpoint.folders(tmp_path)] == ["checkpoint-1"]
    assert signal.getsignal(number) is handler
