"""Runs of several methods over time: what waits, what begins anew, and that a stop in between changes nothing."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from tiny_models import save_tiny

import runs
from obverse.errors import CheckpointError
from obverse.models.load import load
from obverse.runtime import checkpoint
from obverse.runtime.callbacks import Phase, Silent
from obverse.runtime.run_dir import RunFolder
from obverse.runtime.signals import SignalWatcher
from obverse.training.loop import train, train_step
from obverse.training.run import Run
from obverse.training.setup import prepare
from obverse.training.stages import start_stage

LINEAR = {"lr_scheduler_type": "linear", "learning_rate": 1e-3, "imitation_learning_rate": 4e-3}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a family whose tokenizer is in its folder only."""
    return save_tiny("llama", tmp_path_factory.mktemp("lanes") / "llama")


@pytest.fixture
def options(tmp_path: Path) -> dict[str, object]:
    """Some answers count as right, by their length, so that every method has something to learn from."""
    (tmp_path / "reward.py").write_text("def lucky(problem, text):\n    return len(text) % 2\n")
    return {"verifier": f"{tmp_path / 'reward.py'}:lucky", **LINEAR}


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    return runs.write_problems(tmp_path / "chains.jsonl")


def begun(method: str, folder: Path, tiny: Path, problems: Path, **options: object) -> Run:
    return prepare(runs.config(method, folder, tiny, problems, **options), SignalWatcher(Silent()))


class StopWhen(Silent):
    """Signals in the middle of a phase of the step that comes after `after` steps."""

    def __init__(self, after: int, phase: Phase) -> None:
        self.after, self.wanted, self.num_steps = after, phase, 0

    def step(self, step: int, total_steps: int, metrics: object) -> None:
        self.num_steps = step

    def phase(self, phase: Phase, done: int, total: int) -> None:
        if (self.num_steps, phase) == (self.after, self.wanted):
            self.after = -1
            os.kill(os.getpid(), signal.SIGTERM)


def stopped(
    method: str, folder: Path, tiny: Path, problems: Path, after: int, phase: Phase, **options: object
) -> dict[str, object]:
    """Run, stop in the middle of a step, go on; the state of the checkpoint in between."""
    outcome = train(runs.config(method, folder, tiny, problems, **options), StopWhen(after, phase))
    assert (outcome.stopped, outcome.step) == (True, after)
    state: dict[str, object] = json.loads((folder / f"checkpoint-{after}" / "state.json").read_text())
    train(runs.config(method, folder, tiny, problems, resume_from_checkpoint="auto", **options))
    return state


def assert_equal(first: Path, second: Path, step: int) -> None:
    assert runs.figures(first) == runs.figures(second)
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert runs.fingerprint(first, step)[file] == runs.fingerprint(second, step)[file], file


# What waits


def test_problems_wait_until_there_are_enough_and_the_newest_go_first(
    tiny: Path, problems: Path, tmp_path: Path
) -> None:
    run = begun("relift", tmp_path / "run", tiny, problems, max_steps=9, num_waiting=6, **LINEAR)  # solves nothing
    train_step(run)
    first = list(run.state.waiting)
    train_step(run)
    waiting = list(run.state.waiting)
    assert len(first) == 4 and len(waiting) == 8 and waiting[:4] == first
    cursor = run.state.cursor
    train_step(run)
    rows = [json.loads(line) for line in (tmp_path / "run" / "samples" / "step-000003.jsonl").read_text().splitlines()]
    assert [row["problem"] for row in rows] == waiting[:1:-1]
    assert {row["kind"] for row in rows} == {"demonstration"}
    assert run.state.waiting == waiting[:2] and run.state.cursor == cursor, "the stream stands still"
    assert [row["lane"] for row in RunFolder(tmp_path / "run").metrics()] == [0, 0, 1]


def test_a_problem_that_fails_again_waits_once_and_moves_up(tiny: Path, problems: Path, tmp_path: Path) -> None:
    run = begun("relift", tmp_path / "run", tiny, problems, num_waiting=99, prompts_per_step=20, **LINEAR)
    train_step(run)
    first = list(run.state.waiting)
    train_step(run)  # 24 problems: the second step has the rest of them, and 16 of a new epoch
    assert len(run.state.waiting) == len(set(run.state.waiting)) == 24
    rows = (tmp_path / "run" / "samples" / "step-000002.jsonl").read_text().splitlines()
    newest = {json.loads(row)["problem"] for row in rows}
    assert len(newest) < 20, "this step has some problems twice"
    assert set(run.state.waiting[-len(newest) :]) == newest
    assert run.state.waiting[: -len(newest)] == [name for name in first if name not in newest]


@pytest.mark.parametrize("phase", ["grade", "train"])
def test_a_step_that_is_broken_off_gives_back_what_it_took(
    phase: Phase, tiny: Path, problems: Path, tmp_path: Path
) -> None:
    options = {"max_steps": 5, "num_waiting": 6, **LINEAR}
    state = stopped("relift", tmp_path / "run", tiny, problems, 2, phase, **options)
    assert len(state["waiting"]) == 8  # type: ignore[arg-type]
    train(runs.config("relift", tmp_path / "whole", tiny, problems, **options))
    assert_equal(tmp_path / "run", tmp_path / "whole", 5)
    assert [row["lane"] for row in RunFolder(tmp_path / "run").metrics()] == [0, 0, 1, 0, 1]


def test_the_rate_of_what_waits_stays_in_proportion_to_the_runs(tiny: Path, problems: Path, tmp_path: Path) -> None:
    train(runs.config("relift", tmp_path / "run", tiny, problems, max_steps=5, num_waiting=6, **LINEAR))
    rates = [(row["lane"], row["learning_rate"]) for row in RunFolder(tmp_path / "run").metrics()]
    assert rates == [
        (stage, pytest.approx((4e-3 if stage else 1e-3) * (1 - number / 5))) for number, (stage, _) in enumerate(rates)
    ]


# What begins anew


def test_the_second_stage_begins_with_nothing_but_the_weights(
    tiny: Path, problems: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    given = {"max_steps": 8, "sft_share": 0.5, "beta": 0.1, **options}
    run = begun("sft_then_rl", tmp_path / "run", tiny, problems, **given)
    for _ in range(4):
        train_step(run)
    before = {name: value.clone() for name, value in run.learner.policy.model.state_dict().items()}
    first, second = run.learners[0].optimizer, run.learners[1].optimizer
    assert first.tensors() and not second.tensors() and second.num_steps == 0
    assert run.stage == start_stage(run) == 1
    assert not first.tensors() and not second.tensors()
    anchor = run.learners[1].anchor
    assert anchor is not None
    assert all(torch.equal(value, before[name]) for name, value in anchor.model.state_dict().items())
    train_step(run)
    after = run.learner.policy.model.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
    assert all(torch.equal(value, before[name]) for name, value in anchor.model.state_dict().items())
    for _ in range(3):
        train_step(run)
    rates = [row["learning_rate"] for row in RunFolder(tmp_path / "run").metrics()]
    falling = [1, 0.75, 0.5, 0.25]
    assert rates == pytest.approx([4e-3 * each for each in falling] + [1e-3 * each for each in falling])
    assert run.is_finished


@pytest.mark.parametrize(
    ("method", "after", "phase"),
    [
        ("reft", 2, "train"),
        ("sft_then_rl", 3, "sample"),
        pytest.param("reft", 4, "train", marks=pytest.mark.slow),
        pytest.param("sft_then_rl", 2, "train", marks=pytest.mark.slow),
        pytest.param("reft", 3, "sample", marks=pytest.mark.slow),
        pytest.param("sft_then_rl", 4, "train", marks=pytest.mark.slow),
    ],
)
def test_a_stop_around_the_switch_changes_nothing(
    method: str, after: int, phase: Phase, tiny: Path, problems: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    """The switch is at step 3: before it, right behind it, later. Both read the initial model of the second stage."""
    given = {"max_steps": 6, "sft_share": 0.5, "num_iterations": 1, **options}
    given |= {"beta": 0.1} if method == "sft_then_rl" else {"kl_coef": 0.1, "critic_learning_rate": 1e-2}
    state = stopped(method, tmp_path / "run", tiny, problems, after, phase, **given)
    assert state["lane"] == int(after > 2)
    train(runs.config(method, tmp_path / "whole", tiny, problems, **given))
    assert_equal(tmp_path / "run", tmp_path / "whole", 6)
    assert all(row["step_taken"] == 1.0 for row in RunFolder(tmp_path / "run").metrics())


def test_the_critic_of_a_second_stage_begins_as_the_policy_that_it_finds(
    tiny: Path, problems: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    given = {"max_steps": 4, "sft_share": 0.5, **options}
    run = begun("reft", tmp_path / "run", tiny, problems, **given)
    for _ in range(2):
        train_step(run)
    start_stage(run)
    critic, policy = run.learners[1].critic, run.learners[1].policy
    assert critic is not None
    trunk = policy.model.base_model.state_dict()
    assert all(torch.equal(value, trunk[name]) for name, value in critic.model.base_model.state_dict().items())


def test_a_second_stage_goes_on_in_another_folder_and_says_when_it_cannot(
    tiny: Path, problems: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    given = {"sft_share": 0.5, "beta": 0.1, **options}
    train(runs.config("sft_then_rl", tmp_path / "run", tiny, problems, max_steps=4, **given))
    start = {"resume_from_checkpoint": str(tmp_path / "run" / "checkpoint-4"), "max_steps": 5}
    train(runs.config("sft_then_rl", tmp_path / "other", tiny, problems, **given, **start))
    assert load(str(tmp_path / "other" / "initial-1"))[1].get_vocab() == load(str(tiny))[1].get_vocab()
    for file in (tmp_path / "run" / "initial-1").iterdir():
        file.unlink()
    (tmp_path / "run" / "initial-1").rmdir()
    with pytest.raises(CheckpointError, match="stage 1"):
        train(runs.config("sft_then_rl", tmp_path / "third", tiny, problems, **given, **start))


# Turns


def test_turns_have_a_clock_of_their_own_or_share_everything(
    tiny: Path, problems: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    given = {"max_steps": 6, "rl_steps": 2, **options}
    train(runs.config("alternate", tmp_path / "apart", tiny, problems, **given))
    rows = RunFolder(tmp_path / "apart").metrics()
    assert [row["lane"] for row in rows] == [0, 0, 1, 0, 0, 1]
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-3, 7.5e-4, 4e-3, 5e-4, 2.5e-4, 2e-3])
    train(runs.config("alternate", tmp_path / "shared", tiny, problems, moments="shared", **given))
    rows = RunFolder(tmp_path / "shared").metrics()
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-3 * (1 - number / 6) for number in range(6)])
    saved = checkpoint.load(tmp_path / "shared" / "checkpoint-6")
    assert saved.state["optimizers"].keys() == {"lane-0"}
    assert saved.state["optimizers"]["lane-0"]["num_steps"] == 6


def test_a_checkpoint_of_another_methods_run_is_refused(tiny: Path, problems: Path, tmp_path: Path) -> None:
    train(runs.config("sft", tmp_path / "run", tiny, problems, max_steps=1))
    given = {"resume_from_checkpoint": "auto", "max_steps": 2}
    with pytest.raises(CheckpointError, match="of another method's run"):
        train(runs.config("alternate", tmp_path / "run", tiny, problems, **given))


def test_samples_of_the_initial_model_are_not_the_policys_own(tiny: Path, tmp_path: Path) -> None:
    problems = runs.write_problems(tmp_path / "own.jsonl")
    for name, itself in (("raft", True), ("rft", False)):
        config = runs.config(name, tmp_path / name, tiny, problems)
        assert prepare(config, SignalWatcher(Silent())).learner.samples_itself is itself
    cut = runs.config("raft", tmp_path / "cut", tiny, problems, top_k=5)
    assert not prepare(cut, SignalWatcher(Silent())).learner.samples_itself
