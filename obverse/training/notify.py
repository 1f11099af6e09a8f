"""Calls of a run's callbacks: on the first rank, with the same consequence on all ranks."""

from __future__ import annotations

from collections.abc import Callable

from obverse.errors import PeerError
from obverse.runtime.callbacks import RunEvents
from obverse.training.run import Run


class CallbackFailure(Exception):
    """A callback raised an exception, which is the cause on the first rank."""

    def original(self) -> BaseException:
        """The exception of the callback; on the other ranks PeerError."""
        return self.__cause__ or PeerError("a callback raised an exception on rank 0: see its output")


def notify(run: Run, call: Callable[[RunEvents], object]) -> None:
    """Call the run's callbacks with an event; all ranks call this.

    Where a callback returns False, the run stops at its next unit of work. Raises CallbackFailure, on all ranks, for
    one that raises an exception.
    """
    if run.events is None:
        return
    result: object = None
    error: BaseException | None = None
    if run.process_group.is_first:
        try:
            result = call(run.events)
        except (Exception, SystemExit) as raised:  # noqa: BLE001 - it is raised after a save
            error = raised
    has_failed, stops = run.process_group.broadcast([error is not None, result is False])
    if has_failed:
        raise CallbackFailure from error
    if stops:
        run.watcher.stop()
