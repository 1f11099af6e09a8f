"""Progress of work below the functions that have a watcher: reading rows, hashing files, grading.

A command shows it with the panel that it opened; without one, in a library call, reports are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from obverse.runtime.callbacks import Phase

_reporters: list[Callable[[Phase, int, int], None]] = []  # of the open panels, the newest one last


@contextmanager
def shown_by(reporter: Callable[[Phase, int, int], None]) -> Iterator[None]:
    """Send the reports inside the block to `reporter`, which is called with phase, done and total units."""
    _reporters.append(reporter)
    try:
        yield
    finally:
        _reporters.remove(reporter)


def report_progress(phase: Phase, done: int, total: int) -> None:
    """Report that `done` of `total` units of a phase are done; total 0: unknown. Nothing without a reporter."""
    if _reporters:
        _reporters[-1](phase, done, total)


class ReportedFile(FileIO):
    """A file that reports how many of its bytes were read."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, "r")
        self._size = 0
        with suppress(OSError):
            self._size = Path(path).stat().st_size

    def readinto(self, buffer: Any, /) -> int | None:
        number = super().readinto(buffer)
        if _reporters:
            report_progress("read", self.tell(), self._size)
        return number
