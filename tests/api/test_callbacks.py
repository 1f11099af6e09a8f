"""Callbacks of a run: the order of their calls, how they stop it, and what an exception leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import obverse
from obverse.errors import ConfigError
from obverse.runtime.signals import CALLBACK, Interrupted

OPTIONS = {
    "dataset": "arithmetic:1-1",
    "num_problems": 8,
    "prompts_per_step": 2,
    "max_completion_length": 8,
    "max_steps": 3,
    "report": False,
}


class Recorder(obverse.Callback):
    """Records every call, and stops or fails at a step."""

    def __init__(self, stop_at: int = 0, fail_at: int = 0) -> None:
        self.calls: list[Any] = []
        self.stop_at, self.fail_at = stop_at, fail_at

    def on_train_begin(self, run: obverse.Run) -> None:
        self.calls.append(("begin", run.step))

    def on_step_end(self, step: int, metrics: dict[str, Any]) -> bool | None:
        self.calls.append(step)
        assert metrics["step"] == step
        if step == self.fail_at:
            raise ZeroDivisionError(f"at step {step}")
        return step != self.stop_at

    def on_evaluate(self, step: int, figures: dict[str, Any]) -> None:
        self.calls.append(("evaluate", step, figures["all"]["problems"]))

    def on_save(self, step: int, folder: Path) -> None:
        self.calls.append(("save", step, folder.name))

    def on_train_end(self, run: obverse.Run) -> None:
        self.calls.append(("end", run.step, run.stopped))


def test_callbacks_see_the_run_and_stop_it(tmp_path: Path) -> None:
    recorder = Recorder(stop_at=1)
    callbacks = [obverse.Callback(), Recorder(), recorder]  # of step 1: None, True, False
    run = obverse.train("sft", output_dir=tmp_path / "run", callbacks=callbacks, **OPTIONS)
    assert (run.step, run.stopped, run.exit_code) == (1, True, 0)
    assert recorder.calls == [("begin", 0), 1, ("save", 1, "checkpoint-1"), ("end", 1, True)]


@pytest.mark.slow  # two seconds
def test_a_run_that_a_callback_stopped_is_resumed(tmp_path: Path) -> None:
    options = {**OPTIONS, "eval_dataset": "arithmetic:1-1", "num_eval_problems": 2, "num_generations_eval": 1}
    run = obverse.train("sft", output_dir=tmp_path / "run", callbacks=Recorder(stop_at=1), **options)
    second = Recorder()
    run = run.resume(callbacks=second)
    assert (run.step, run.stopped) == (3, False)
    assert second.calls == [
        ("begin", 1), 2, 3, ("save", 3, "checkpoint-3"), ("evaluate", 3, 2), ("end", 3, False)
    ]  # fmt: skip


@pytest.mark.slow  # a second
def test_an_exception_of_a_callback_ends_the_run_after_a_save(tmp_path: Path) -> None:
    recorder = Recorder(fail_at=2)
    with pytest.raises(ZeroDivisionError, match="at step 2"):
        obverse.train("sft", output_dir=tmp_path / "run", callbacks=recorder, **OPTIONS)
    run = obverse.load_run(tmp_path / "run")
    assert [path.name for path in run.checkpoints] == ["checkpoint-2"] and run.resume().step == 3


def test_only_callbacks_are_accepted() -> None:
    for wrong, hint in [(Recorder, r"Recorder\(\)"), (print, "derive")]:
        with pytest.raises(ConfigError, match=hint):
            obverse.train("sft", callbacks=[wrong], **OPTIONS)  # type: ignore[list-item]


def test_a_callback_is_no_signal() -> None:
    stop = Interrupted(CALLBACK)
    assert str(stop) == "a callback" and stop.exit_code == 0
