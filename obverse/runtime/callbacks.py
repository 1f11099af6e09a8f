"""The callback interface of a run: the loop calls a Watcher, which a console or a test implements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from obverse.redact import flat, masked

Phase = Literal["load", "read", "hash", "sample", "grade", "teacher", "train", "eval", "save", "upload"]
Metrics = Mapping[str, float]


class Watcher(Protocol):
    """What the loop reports, in the order of a run: banner, then phases and steps, notes at any time."""

    def banner(self, facts: Sequence[tuple[str, str]]) -> None:
        """What is about to run: ("model", "..."), ("batch", "32 problems x 8 completions = 256 ...")."""

    def phase(self, phase: Phase, done: int, total: int) -> None:
        """`done` of `total` units of the current phase (completions, micro batches, problems, bytes); 0: unknown."""

    def step(self, step: int, total_steps: int, metrics: Metrics) -> None:
        """A finished step with its row of metrics.jsonl."""

    def note(self, text: str) -> None:
        """One line for the user: a warning, a checkpoint's path, what was skipped."""


class RunEvents(Protocol):
    """The events of a run that callbacks of a Python call receive, on the first rank, between two units of work.

    Where a method returns False, the run is saved and stops, as after a signal. An exception ends the run after a
    checkpoint was saved.
    """

    def train_begin(self, folder: Path) -> object:
        """The run folder exists, and the models are loaded; no step has been taken by this call."""

    def step_end(self, step: int, metrics: Metrics) -> object:
        """A step was trained and its row written to metrics.jsonl."""

    def evaluate(self, step: int, figures: Mapping[str, Mapping[str, Any]]) -> object:
        """Held-out problems were evaluated; the figures are by difficulty, and "all"."""

    def save(self, step: int, folder: Path) -> object:
        """A checkpoint was saved."""


class Silent:
    """Ignores every report; the default in Python."""

    def banner(self, facts: Sequence[tuple[str, str]]) -> None: ...

    def phase(self, phase: Phase, done: int, total: int) -> None: ...

    def step(self, step: int, total_steps: int, metrics: Metrics) -> None: ...

    def note(self, text: str) -> None: ...


__all__ = ["Metrics", "Phase", "RunEvents", "Silent", "Watcher", "flat", "masked"]
