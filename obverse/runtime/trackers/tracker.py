"""The interface of a tracker, and the run that it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

DEFAULT_PROJECT = "obverse"


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker sees it.

    Attributes:
        folder: The run folder.
        id: Unique; the same whenever the run is resumed.
        name: What the tracker's interface shows; it need not be unique.
        project: Groups runs that are shown together. "": the library's environment variable, or DEFAULT_PROJECT.
        group: The comparison that the run belongs to; "" for none.
        config: The options of the run and the parts of its method, JSON values without secrets.
        step: The last finished step: 0 for a new run.
        num_tokens: The number of tokens generated plus trained up to `step`.
    """

    folder: Path
    id: str
    name: str
    project: str = ""
    group: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0
    num_tokens: int = 0


@dataclass(frozen=True)
class Completion:
    """A row of the table of completions."""

    problem: str
    kind: str  # rollout, demonstration, ...
    prompt: str
    completion: str
    reward: float
    correct: bool | None  # None: not graded


COLUMNS = tuple(column.name for column in fields(Completion))


class Tracker(Protocol):
    """A destination of figures. All its methods are called from one thread, which may be interrupted at any point.

    A method may raise any exception and may take any time: neither ends or delays the run (see TrackerThread).
    """

    # Whether `open` discards what was logged after `TrackedRun.step`; if not, repeated steps are not logged again.
    discards_later_steps: ClassVar[bool]
    # Whether a step is written only when a later one is logged, or at the end: a kill loses it.
    writes_steps_late: ClassVar[bool]

    def open(self, run: TrackedRun) -> str:
        """Begin the run, or continue the one with this id; returns where its figures can be seen, one sentence."""

    def log_figures(self, step: int, num_tokens: int, figures: Mapping[str, float]) -> None:
        """Log figures of a step; `num_tokens` is the number of tokens generated plus trained up to it."""

    def log_completions(self, step: int, completions: Sequence[Completion]) -> None:
        """Log a table of the completions of a step."""

    def close(self, exit_code: int) -> None:
        """Write what is buffered and end the run; `exit_code` is 0 if all steps were taken."""
