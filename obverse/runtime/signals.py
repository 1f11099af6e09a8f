"""Ctrl-C and SIGTERM as a flag that the loop looks at, so that a stop always leaves a checkpoint."""

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
NOT_SAVED = 75  # the exit code of a run that a second signal ended before its state was saved


class Interrupted(Exception):
    """A signal asked to stop; raised between two pieces of work, never inside an optimizer step."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.exit_code = 128 + number


class SignalWatcher:
    """A watcher that passes everything on and raises Interrupted at the next phase call after a signal.

    A second signal does not wait: it raises KeyboardInterrupt where the program stands, also in the midst of a save.
    """

    def __init__(self, watcher: Watcher, process_group: ProcessGroup = SINGLE_PROCESS) -> None:
        self.watcher, self.process_group = watcher, process_group
        self.received: int | None = None

    @contextmanager
    def handling_signals(self) -> Iterator[SignalWatcher]:
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
        self.report_phase(phase, done, total)
        self.check()

    def report_phase(self, phase: Phase, done: int, total: int) -> None:
        """Pass a phase on without a look at signals: what goes on cannot be broken off here."""
        self.process_group.heartbeat(phase)
        self.watcher.phase(phase, done, total)

    @property
    def uninterruptible(self) -> Watcher:
        """The same watcher, which signals do not interrupt."""
        return Uninterruptible(self)

    def step(self, step: int, total_steps: int, metrics: Metrics) -> None:
        self.watcher.step(step, total_steps, metrics)

    def note(self, text: str) -> None:
        self.watcher.note(text)


@dataclass(frozen=True)
class Uninterruptible:
    """An attentive watcher that does not look at signals."""

    attentive: SignalWatcher

    def banner(self, facts: Sequence[tuple[str, str]]) -> None:
        self.attentive.banner(facts)

    def phase(self, phase: Phase, done: int, total: int) -> None:
        self.attentive.report_phase(phase, done, total)

    def step(self, step: int, total_steps: int, metrics: Metrics) -> None:
        self.attentive.step(step, total_steps, metrics)

    def note(self, text: str) -> None:
        self.attentive.note(text)


def run_on_all_ranks(process_group: ProcessGroup, work: Callable[[], Result]) -> Result:
    """Do what is this rank's own; then all ranks go on, or all stop for what one of them met.

    Raises Interrupted on all ranks if a signal broke one off, FloatingPointError if numbers of one were not finite.
    Other errors stay with their rank: the others hear of its end.
    """
    if process_group.is_alone:
        return work()
    met: tuple[str, int | str] | None = None
    result: list[Result] = []
    try:
        result.append(work())
    except Interrupted as stop:
        met = ("signal", stop.number)
    except FloatingPointError as error:
        met = ("numbers", f"rank {process_group.rank}: {error}")
    told = [each for each in process_group.gather(met) if each is not None]
    for kind, what in told:
        if kind == "numbers":
            raise FloatingPointError(what)
    for _, number in told:
        raise Interrupted(int(number))
    return result[0]
