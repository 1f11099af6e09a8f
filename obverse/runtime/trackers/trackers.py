"""All trackers of a run: started, given its events, and closed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from obverse.errors import ConfigError
from obverse.runtime.trackers.thread import Event, TrackerThread, error_text
from obverse.runtime.trackers.tracker import Completion, TrackedRun

CLASSES = {"tensorboard": "TensorBoardTracker", "trackio": "TrackioTracker", "wandb": "WandbTracker"}
ALWAYS = "jsonl"  # metrics.jsonl, which every run writes
END_SECONDS = 45.0  # that the end of a run waits for its trackers
STOPPED_SECONDS = 10.0  # the same after a signal or an error
PAUSE = 0.1  # seconds between two looks at signals


class Trackers:
    """The trackers of a run. No method waits for a tracker, except `close`, and none raises an error of one.

    `note` receives a sentence for the user about each tracker that begins or fails, always in the caller's thread.
    """

    def __init__(self, threads: Sequence[TrackerThread] = (), note: Callable[[str], None] = lambda text: None) -> None:
        self.threads, self.note = tuple(threads), note
        for thread in self.threads:
            thread.start()

    def __bool__(self) -> bool:
        return bool(self.threads)

    def log_step(self, step: int, row: Mapping[str, float]) -> None:
        """Log the row of metrics.jsonl of a finished step."""
        figures = {name: value for name, value in row.items() if name not in ("step", "num_tokens")}
        self._log_figures("figures", step, int(row["num_tokens"]), figures)

    def log_evaluation(self, step: int, num_tokens: int, summary: Mapping[str, Mapping[str, Any]]) -> None:
        """Log an evaluation: numbers by name for every group of problems, of which `all` has all of them."""
        self._log_figures("evaluation", step, num_tokens, evaluation_figures(summary))

    def log_completions(self, step: int, read: Callable[[], Sequence[Completion]], num: int) -> None:
        """Log a table of `num` completions of a step; `read` is called in the thread of each tracker."""
        if num:
            self._put(Event("completions", step, lambda tracker: tracker.log_completions(step, read()), size=num))

    def close(self, exit_code: int, is_stopped: Callable[[], bool] = lambda: False) -> None:
        """End the run in every tracker. Waits at most END_SECONDS, or STOPPED_SECONDS after a signal or an error.

        `exit_code` is 0 if all steps were taken; `is_stopped` returns whether a signal has arrived. A second signal
        ends the wait.
        """
        for thread in self.threads:
            thread.end(exit_code)
        start = time.monotonic()
        try:
            for thread in self.threads:
                while not thread.join(PAUSE):
                    if time.monotonic() - start > (STOPPED_SECONDS if exit_code or is_stopped() else END_SECONDS):
                        break
        except KeyboardInterrupt:
            pass
        self._note_remarks()
        for thread in self.threads:
            if not thread.is_off and not thread.join(0.0):
                seconds = time.monotonic() - start
                self.note(
                    f"--report_to {thread.name}: not finished after {seconds:.0f} s; its last figures may be missing"
                )

    def _log_figures(self, kind: str, step: int, num_tokens: int, figures: Mapping[str, float]) -> None:
        finite = {name: value for name, value in figures.items() if math.isfinite(value)}
        self._put(Event(kind, step, lambda tracker: tracker.log_figures(step, num_tokens, finite)))

    def _put(self, event: Event) -> None:
        for thread in self.threads:
            thread.put(event)
        self._note_remarks()

    def _note_remarks(self) -> None:
        for thread in self.threads:
            while thread.remarks:
                self.note(thread.remarks.popleft())


def evaluation_figures(summary: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The numbers of an evaluation's summary by name: `eval/pass@1` of all problems, `eval/GROUP/pass@1` of a group."""
    return {
        f"eval/{name}" if group == "all" else f"eval/{group}/{name}": float(value)
        for group, row in summary.items()
        for name, value in row.items()
        if isinstance(value, int | float)
    }


def chosen(report_to: Sequence[str]) -> tuple[str, ...]:
    """The names of the trackers that need a library; `all` is every installed one."""
    names = [name for name in CLASSES if is_installed(name)] if "all" in report_to else report_to
    return tuple(name for name in names if name != ALWAYS)


def is_installed(name: str) -> bool:
    """Whether the library of a tracker is installed."""
    specs = {
        "tensorboard": lambda: find_spec("tensorboard"),
        "trackio": lambda: find_spec("trackio"),
        "wandb": lambda: find_spec("wandb"),
    }
    return specs[name]() is not None


def check(report_to: Sequence[str]) -> None:
    """Raise ConfigError for a tracker whose library is missing, or which lacks an account."""
    for name in chosen(report_to):
        if not is_installed(name):
            raise ConfigError(f"--report_to {name}: {name} is not installed: pip install 'obverse[{name}]'")
        if name == "wandb":
            check_account(name)


def check_account(name: str) -> None:
    """Raise ConfigError if a tracker lacks an account, or its library cannot be used at all."""
    try:
        tracker_class(name).check()
    except ConfigError:
        raise
    except Exception as error:
        text = error_text(error)
        raise ConfigError(f"--report_to {name}: {text}: pip install --upgrade 'obverse[{name}]'") from error


def tracker_class(name: str) -> Any:
    """The class of a tracker; its library is imported."""
    return getattr(import_module(f"obverse.runtime.trackers.{name}"), CLASSES[name])


def start(report_to: Sequence[str], run: TrackedRun, note: Callable[[str], None]) -> Trackers:
    """Start the trackers of a run; a library that cannot be imported is noted, and its tracker left out.

    Libraries are imported here, in the caller's thread and before the first step, so that no step waits for an import.
    """
    threads = []
    for name in chosen(report_to):
        try:
            threads.append(TrackerThread(name, tracker_class(name)(), run))
        except Exception as error:  # noqa: BLE001 - whatever an import raises, the run goes on
            note(f"--report_to {name}: not used: it cannot be imported: {error_text(error)}")
    return Trackers(threads, note)
