"""Ctrl-C and SIGTERM as a flag that the loop looks at, so that a stop always leaves a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from obverse.watch import Metrics, Phase, Watcher

NOT_SAVED = 75  # the exit code of a run that a second signal ended before its state was saved


class Interrupted(Exception):
    """A signal asked to stop; raised between two pieces of work, never inside an optimizer step."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Attentive:
    """A watcher that passes everything on and raises Interrupted at the next phase call after a signal.

    A second signal does not wait: it raises KeyboardInterrupt where the program stands, also in the midst of a save.
    """

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.received: int | None = None

    @contextmanager
    def listening(self) -> Iterator[Attentive]:
        """Catch SIGINT and SIGTERM inside the block (main thread only; elsewhere nothing is changed)."""
        try:
            before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: whoever owns it owns the signals
            before = {}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self) -> None:
        if self.received is not None:
            raise Interrupted(self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number

    def banner(self, facts: Sequence[tuple[str, str]]) -> None:
        self.watcher.banner(facts)

    def phase(self, phase: Phase, done: int, total: int) -> None:
        self.watcher.phase(phase, done, total)
        self.check()

    def step(self, step: int, total_steps: int, metrics: Metrics) -> None:
        self.watcher.step(step, total_steps, metrics)

    def note(self, text: str) -> None:
        self.watcher.note(text)
