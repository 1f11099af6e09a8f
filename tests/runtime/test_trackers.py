"""Trackers beside a run: what they receive, and that none of them can stop or delay it. No library is used."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from recording_tracker import Recorder

from obverse.config.resolve import resolve
from obverse.config.train import TrainConfig
from obverse.errors import ConfigError
from obverse.methods import find
from obverse.runtime.trackers import thread, trackers
from obverse.runtime.trackers.muted import muted
from obverse.runtime.trackers.thread import TrackerThread
from obverse.runtime.trackers.tracker import Completion, TrackedRun
from obverse.runtime.trackers.trackers import Trackers, evaluation_figures

ROW = {"step": 1.0, "num_tokens": 10.0, "reward": 0.5, "lost": float("nan")}


class Late(Recorder):
    writes_steps_late: ClassVar[bool] = True


class Discarding(Recorder):
    discards_later_steps: ClassVar[bool] = True


def started(
    tracker: Recorder, folder: Path, run_id: str = "a1", run_name: str = "run", step: int = 0
) -> tuple[Trackers, list[str]]:
    """A running tracker and the notes to the user."""
    notes: list[str] = []
    run = TrackedRun(folder, run_id, run_name, step=step)
    return Trackers([TrackerThread("fake", tracker, run)], notes.append), notes


def log_steps(running: Trackers, steps: Sequence[int]) -> None:
    for step in steps:
        running.log_step(step, {**ROW, "step": step, "num_tokens": 10 * step})


def test_a_tracker_receives_steps_evaluations_and_completions(tmp_path: Path) -> None:
    tracker = Recorder()
    running, notes = started(tracker, tmp_path)
    running.log_evaluation(0, 0, {"all": {"pass@1": 0.5, "interval": [0.1, 0.9]}, "level-2": {"pass@1": 0.25}})
    log_steps(running, [1])
    running.log_completions(1, lambda: [Completion("p", "rollout", "1+1", "2", 1.0, True)], num=1)
    running.close(0)
    assert tracker.calls == [
        ("open", "a1", "run"),
        ("figures", 0, 0, {"eval/pass@1": 0.5, "eval/level-2/pass@1": 0.25}),
        ("figures", 1, 10, {"reward": 0.5}),  # without a figure that is not finite
        ("completions", 1, 1),
        ("close", 0),
    ]
    assert tracker.threads == {"tracker fake"}
    assert notes == ["fake: a place"]


@pytest.mark.parametrize("failing", ["open", "figures", "close"])
def test_an_error_turns_a_tracker_off_with_one_note(tmp_path: Path, failing: str) -> None:
    def fail(name: str) -> None:
        if name == failing:
            raise OSError(28, "No space left on device")

    tracker, healthy = Recorder(fail), Recorder()
    notes: list[str] = []
    run = TrackedRun(tmp_path, "a1", "run")
    running = Trackers([TrackerThread("bad", tracker, run), TrackerThread("good", healthy, run)], notes.append)
    log_steps(running, [1, 2])
    running.close(0)
    assert [note for note in notes if "off" in note and "No space left" in note] == [
        note for note in notes if note.startswith("--report_to bad")
    ]
    assert sum(note.startswith("--report_to") for note in notes) == 1
    assert healthy.steps == [1, 2]
    assert failing == "close" or not tracker.steps


def test_a_hanging_tracker_delays_neither_steps_nor_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    tracker = Recorder(lambda name: None if name == "open" else (released.wait(20), None)[1])
    monkeypatch.setattr(trackers, "END_SECONDS", 0.3)
    monkeypatch.setattr(thread, "MAX_WAITING", 5)
    running, notes = started(tracker, tmp_path)
    start = time.monotonic()
    log_steps(running, range(1, 40))
    assert time.monotonic() - start < 1
    running.close(0)
    seconds = time.monotonic() - start
    released.set()
    assert seconds < 2
    (note,) = [note for note in notes if note != "fake: a place"]
    assert "slower" in note


def test_the_end_waits_less_after_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(trackers, "STOPPED_SECONDS", 0.2)
    running, notes = started(Recorder(lambda name: (released.wait(20), None)[1]), tmp_path)
    start = time.monotonic()
    running.close(0, is_stopped=lambda: time.monotonic() - start > 0.1)
    seconds = time.monotonic() - start
    released.set()
    assert seconds < 2
    assert len(notes) == 1


def test_a_slow_tracker_receives_everything_before_the_end(tmp_path: Path) -> None:
    tracker = Recorder(lambda name: time.sleep(0.02))
    running, _ = started(tracker, tmp_path)
    log_steps(running, range(1, 11))
    running.close(0)
    assert tracker.steps == [*range(1, 11)]
    assert tracker.calls[-1] == ("close", 0)


def test_repeated_steps_of_a_resumed_run_are_logged_once(tmp_path: Path) -> None:
    running, _ = started(Recorder(), tmp_path)
    log_steps(running, [1, 2, 3, 4])  # killed here; the checkpoint is of step 2
    running.close(1)
    resumed = Recorder()
    running, _ = started(resumed, tmp_path, step=2)
    log_steps(running, [3, 4, 5])
    running.log_evaluation(4, 40, {"all": {"pass@1": 0.5}})  # was not reached before
    running.close(0)
    assert [call for call in resumed.calls if call[0] == "figures"] == [
        ("figures", 5, 50, {"reward": 0.5}),
        ("figures", 4, 40, {"eval/pass@1": 0.5}),
    ]


@pytest.mark.parametrize(("kind", "expected"), [(Recorder, [5]), (Late, [4, 5])])
def test_a_kill_loses_the_step_that_a_tracker_has_not_written(
    kind: type[Recorder], expected: list[int], tmp_path: Path
) -> None:
    killed = kind()
    running, _ = started(killed, tmp_path)
    log_steps(running, [1, 2, 3, 4])
    path, num_written = tmp_path / "trackers" / "fake.json", 4 - (kind is Late)
    end = time.monotonic() + 10
    while not (path.exists() and json.loads(path.read_text())["steps"].get("figures") == num_written):
        assert time.monotonic() < end
        time.sleep(0.01)
    resumed = kind()  # the first one is never closed
    running, _ = started(resumed, tmp_path, step=2)
    log_steps(running, [3, 4, 5])
    running.close(0)
    assert resumed.steps == expected
    assert json.loads(path.read_text())["steps"] == {"figures": 5}


def test_a_tracker_that_discards_later_steps_receives_them_again(tmp_path: Path) -> None:
    for expected, steps in (([1, 2, 3], [1, 2, 3]), ([3, 4], [3, 4])):
        tracker = Discarding()
        running, _ = started(tracker, tmp_path)
        log_steps(running, steps)
        running.close(0)
        assert tracker.steps == expected


def test_another_run_in_the_folder_begins_anew(tmp_path: Path) -> None:
    running, _ = started(Recorder(), tmp_path)
    log_steps(running, [1, 2])
    running.close(0)
    tracker = Recorder()
    running, _ = started(tracker, tmp_path, run_id="a1-branch-1")
    log_steps(running, [1, 2])
    running.close(0)
    assert tracker.steps == [1, 2]


def test_a_resumed_run_keeps_its_name(tmp_path: Path) -> None:
    for name in ("first", "second"):
        tracker = Recorder()
        running, _ = started(tracker, tmp_path, run_name=name)
        log_steps(running, [1])
        running.close(0)
    assert tracker.calls[0] == ("open", "a1", "first")


def test_numbers_of_an_evaluation() -> None:
    summary = {"all": {"problems": 4, "pass@1": 0.5, "intervals": {}, "reasons": {"x": 1}}, "1": {"pass@1": 1.0}}
    assert evaluation_figures(summary) == {"eval/problems": 4.0, "eval/pass@1": 0.5, "eval/1/pass@1": 1.0}


@pytest.fixture
def only_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "is_installed", lambda name: name == "tensorboard")


@pytest.mark.usefixtures("only_tensorboard")
def test_a_missing_library_is_refused_with_its_extra() -> None:
    trackers.check(("jsonl", "tensorboard", "all"))
    with pytest.raises(ConfigError, match=r"obverse\[trackio\]"):
        trackers.check(("tensorboard", "trackio"))
    assert trackers.chosen(("all",)) == ("tensorboard",)
    assert trackers.chosen(("jsonl",)) == trackers.chosen(()) == ()


def test_a_library_that_cannot_be_asked_for_its_account_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        @staticmethod
        def check() -> None:
            raise TypeError("login() got an unexpected keyword argument")

    monkeypatch.setattr(trackers, "is_installed", lambda name: True)
    monkeypatch.setattr(trackers, "tracker_class", lambda name: Old)
    with pytest.raises(ConfigError, match=r"unexpected.*obverse\[wandb\]"):
        trackers.check(("wandb",))


def test_a_library_that_cannot_be_imported_is_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(name: str) -> type:
        raise ImportError("undefined symbol")

    monkeypatch.setattr(trackers, "tracker_class", broken)
    notes: list[str] = []
    assert not trackers.start(("trackio",), TrackedRun(tmp_path, "a1", "run"), notes.append)
    assert len(notes) == 1
    assert "undefined symbol" in notes[0]


def test_only_the_thread_itself_is_muted(capsys: pytest.CaptureFixture[str]) -> None:
    printed = threading.Thread(target=print, args=("from another thread",))
    with muted():
        print("from this one")
        printed.start()
        printed.join()
    print("afterwards")
    assert capsys.readouterr().out == "from another thread\nafterwards\n"
    assert type(sys.stdout).__name__ != "MutedStream"


def options(**given: Any) -> TrainConfig:
    return resolve("sft", find("sft"), given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("trackio,wandb", ("trackio", "wandb")),
        (["tensorboard"], ("tensorboard",)),
        ("none", None),
        (None, None),
        ("all", ("all",)),
    ],
)
def test_report_to_is_read_as_in_trl(given: Any, expected: tuple[str, ...] | None) -> None:
    assert options(report_to=given).report_to == expected


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(ConfigError, match="--report_to"):
        options(report_to="mlflow")
