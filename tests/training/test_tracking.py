"""What a run gives its trackers, when it is new, resumed, or continued from an earlier checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recording_tracker import Recorder
from tiny_models import save_tiny

import runs
from obverse.errors import ConfigError
from obverse.runtime.callbacks import Silent
from obverse.runtime.run_dir import RunFolder
from obverse.runtime.trackers import trackers
from obverse.training.loop import train


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("tracking") / "llama")


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """Recorders in place of trackio, one for each start of a run."""
    created: list[Recorder] = []

    def create() -> Recorder:
        created.append(Recorder())
        return created[-1]

    monkeypatch.setattr(trackers, "tracker_class", lambda name: create)
    monkeypatch.setattr(trackers, "is_installed", lambda name: name == "trackio")
    return created


@pytest.fixture
def start(tiny: Path, tmp_path: Path, recorders: list[Recorder]) -> Any:
    problems = tmp_path / "chains.jsonl"
    runs.write_problems(problems)

    def start(**options: Any) -> Recorder:
        config = {"report_to": "trackio", "save_steps": 1, "save_total_limit": 9, "learning_rate": 1e-3, **options}
        train(runs.config("hpt", tmp_path / "run", tiny, problems, **config), Silent())
        return recorders[-1] if recorders else Recorder()

    return start


def test_a_run_and_its_continuations(start: Any, tmp_path: Path) -> None:
    evaluation = {"eval_dataset": str(tmp_path / "chains.jsonl"), "num_eval_problems": 2, "num_generations_eval": 2}
    first = start(max_steps=2, run_group="series", **evaluation)
    rows = RunFolder(tmp_path / "run").metrics()
    logged = {call[1]: call[3] for call in first.calls if call[0] == "figures" and "reward" in call[3]}
    assert [*logged] == [1, 2]
    assert {**logged[2], "step": 2, "num_tokens": rows[1]["num_tokens"]} == rows[1]
    evaluations = [call for call in first.calls if call[0] == "figures" and "eval/pass@1" in call[3]]
    assert [(call[1], call[2]) for call in evaluations] == [(2, rows[1]["num_tokens"])]
    assert first.calls[-1] == ("close", 0)

    run, run_id = first.run, RunFolder(tmp_path / "run").run_id()
    assert (run.id, run.name, run.group, run.step) == (run_id, "run", "series", 0)
    assert run.config["method"] == "hpt"
    assert run.config["gate"] == 0
    assert run.config["terms"][0]["advantage"] == "centered"
    kinds = {completion.kind for completion in first.completions}
    assert kinds == {"rollout", "demonstration"}
    assert len(first.completions) == 2 * 4 * (3 + 1)

    # without the evaluation, whose earlier results are set aside as another branch
    resumed = start(max_steps=3, resume_from_checkpoint="auto")
    assert (resumed.run.id, resumed.run.step, resumed.run.num_tokens) == (run_id, 2, rows[1]["num_tokens"])
    assert resumed.steps == [3]

    branch = start(max_steps=3, resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert (branch.run.id, branch.run.name) == (f"{run_id}-branch-1", "run-branch-1")
    assert branch.steps == [2, 3]


def test_secrets_in_completions_are_masked(start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = runs.write_problems(tmp_path / "chains.jsonl", num_problems=4)
    text.write_text(text.read_text().replace('"prompt": "', '"prompt": "my-hidden-value '))
    monkeypatch.setenv("MY_API_KEY", "my-hidden-value")
    recorder = start(max_steps=1)
    assert recorder.completions
    assert all(completion.prompt.startswith("*** ") for completion in recorder.completions)


def test_an_error_of_the_run_ends_it_in_the_tracker_too(
    start: Any, recorders: list[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obverse.training.loop.train_step", lambda run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        start(max_steps=1)
    assert recorders[0].calls[-1] == ("close", 1)


def test_a_tracker_that_fails_leaves_the_run_as_it_is(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(trackers, "tracker_class", lambda name: lambda: Recorder(fail))
    notes: list[str] = []
    monkeypatch.setattr(Silent, "note", lambda self, text: notes.append(text))
    start(max_steps=2)
    assert len(RunFolder(tmp_path / "run").metrics()) == 2
    assert sum("no network" in note for note in notes) == 1


def test_a_missing_library_is_refused_before_the_run(tiny: Path, tmp_path: Path) -> None:
    options = {"report_to": "trackio", "max_steps": 1}
    config = runs.config("hpt", tmp_path / "run", tiny, runs.write_problems(tmp_path / "chains.jsonl"), **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trackers, "is_installed", lambda name: False)
        with pytest.raises(ConfigError, match=r"obverse\[trackio\]"):
            train(config)
    assert not (tmp_path / "run").exists()
