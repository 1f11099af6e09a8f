"""A tracker that records its calls instead of writing anything."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from obverse.runtime.trackers.tracker import Completion, TrackedRun


class Recorder:
    """A tracker that stores its calls, and before each of them calls `act`."""

    discards_later_steps: ClassVar[bool] = False
    writes_steps_late: ClassVar[bool] = False

    def __init__(self, act: Callable[[str], None] = lambda name: None) -> None:
        self.act = act
        self.calls: list[tuple[Any, ...]] = []
        self.completions: list[Completion] = []
        self.threads: set[str] = set()

    def _call(self, *call: Any) -> None:
        self.threads.add(threading.current_thread().name)
        self.act(call[0])
        self.calls.append(call)

    def open(self, run: TrackedRun) -> str:
        self.run = run
        self._call("open", run.id, run.name)
        return "a place"

    def log_figures(self, step: int, num_tokens: int, figures: Mapping[str, float]) -> None:
        self._call("figures", step, num_tokens, dict(figures))

    def log_completions(self, step: int, completions: Sequence[Completion]) -> None:
        self.completions += completions
        self._call("completions", step, len(completions))

    def close(self, exit_code: int) -> None:
        self._call("close", exit_code)

    @property
    def steps(self) -> list[int]:
        return [call[1] for call in self.calls if call[0] == "figures"]
