"""Ctrl-C and SIGTERM as a flag that the training loop checks, so that a stopped run always has a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

from obverse.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from obverse.runtime.callbacks import Metrics, Phase, Watcher

Result = TypeVar("Result")
CALLBACK = 0  # in place of a signal's number: a callback of the run returned False
NOT_SAVED = 75  # the exit code of a run that a second signal ended before its state was saved


class Interrupted(Exception):
    """A signal was received, or a callback stops the run; raised between two units of work, never in an optimizer step.

    `number` is the signal's, or CALLBACK, whose exit code is 0.
    """

    def __init__(self, number: int) -> None:
        super().__init__("a callback" if number == CALLBACK else signal.Signals(number).name)
        self.number = number
        self.exit_code = 0 if number == CALLBACK else 128 + number


class SignalWatcher:
    """Forwards to another watcher, and raises Interrupted at the next `phase` call after a signal.

    A second signal raises KeyboardInterrupt immediately, even during a save.
    """

    def __init__(self, watcher: Watcher, process_group: ProcessGroup = SINGLE_PROCESS) -> None:
        self.watcher, self.process_group = watcher, process_group
        self.received: int | None = None

    @contextmanager
    def handling_signals(self) -> Iterator[SignalWatcher]:
        """Handle SIGINT and SIGTERM inside the block; in another thread than the main one it does nothing."""
        try:
            handlers = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread, which alone may set handlers
            handlers = {}
        try:
            yield self
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def check(self) -> None:
        if self.received is not None:
            raise Interrupted(self.received)

    def stop(self) -> None:
        """Raise Interrupted at the next `phase` call, as after a signal: a callback has returned False."""
        if self.received is None:
            self.received = CALLBACK

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received not in (None, CALLBACK):
            raise KeyboardInterrupt
        self.received = number

    def banner(self, facts: Sequence[tuple[str, str]]) -> None:
        self.watcher.banner(facts)

    def phase(self, phase: Phase, done: int, total: int) -> None:
        self.report_phase(phase, done, total)
        self.check()

    def report_phase(self, phase: Phase, done: int, total: int) -> None:
        """Report a phase without raising Interrupted, for work that must not be interrupted."""
        self.process_group.heartbeat(phase)
        self.watcher.phase(phase, done, total)

    @property
    def uninterruptible(self) -> Watcher:
        """A view of this watcher that never raises Interrupted."""
        return Uninterruptible(self)

    def step(self, step: int, total_steps: int, metrics: Metrics) -> None:
        self.watcher.step(step, total_steps, metrics)

    def note(self, text: str) -> None:
        self.watcher.note(text)


@dataclass(frozen=True)
class Uninterruptible:
    """A view of a SignalWatcher that reports without raising Interrupted."""

    watcher: SignalWatcher

    def banner(self, facts: Sequence[tuple[str, str]]) -> None:
        self.watcher.banner(facts)

    def phase(self, phase: Phase, done: int, total: int) -> None:
        self.watcher.report_phase(phase, done, total)

    def step(self, step: int, total_steps: int, metrics: Metrics) -> None:
        self.watcher.step(step, total_steps, metrics)

    def note(self, text: str) -> None:
        self.watcher.note(text)


def run_on_all_ranks(process_group: ProcessGroup, work: Callable[[], Result]) -> Result:
    """Run `work` on this rank and wait for all ranks; all raise what one of them raised.

    Raises Interrupted on all ranks if a signal interrupted one, FloatingPointError if numbers of one were not finite.
    Another error ends its rank only, and the others by the loss of that rank (PeerError).
    """
    if process_group.is_alone:
        return work()
    stopped_by: tuple[str, int | str] | None = None
    result: list[Result] = []
    try:
        result.append(work())
    except Interrupted as stop:
        stopped_by = ("signal", stop.number)
    except FloatingPointError as error:
        stopped_by = ("numbers", f"rank {process_group.rank}: {error}")
    reasons = [reason for reason in process_group.gather(stopped_by) if reason is not None]
    for kind, message in reasons:
        if kind == "numbers":
            raise FloatingPointError(message)
    for _, number in reasons:
        raise Interrupted(int(number))
    return result[0]
