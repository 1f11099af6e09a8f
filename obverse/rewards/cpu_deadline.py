"""A deadline that other processes on the machine cannot use up: time spent waiting for a core is not charged.

Linux counts for each thread the nanoseconds it was runnable and waited (`/proc/PID/schedstat`, second field). What is
left of the wall clock is the time in which it computed or slept: what it would have taken on an idle machine. A task
that sleeps, or waits for a network, is therefore charged the wall clock, and one that computes its CPU time. Where the
kernel has no such counter (macOS) the wall clock is charged.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic

SLICE_SECONDS = 0.05  # between two looks at the counters


@dataclass(frozen=True)
class ThreadClock:
    """What the kernel counts for one thread, in nanoseconds; `is_runnable` now, running or in the queue of a core."""

    computed: int
    queued: int
    is_runnable: bool


def thread_clocks(pid: int) -> dict[int, ThreadClock]:
    """The counters of every thread of a process and of its descendants, by thread id; empty where there are none."""
    clocks: dict[int, ThreadClock] = {}
    processes = [pid]
    while processes:
        folder = Path(f"/proc/{processes.pop()}/task")
        with suppress(OSError):  # ended meanwhile
            for thread in folder.iterdir():
                with suppress(OSError, ValueError, IndexError):
                    computed, queued, _ = (thread / "schedstat").read_text().split()
                    state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
                    clocks[int(thread.name)] = ThreadClock(int(computed), int(queued), state == "R")
                    processes += map(int, (thread / "children").read_text().split())
    return clocks


def answered(pipe: Connection, pid: int, seconds: float) -> bool:
    """Wait until the pipe of process `pid` has something to read; False once `seconds` were charged to the process.

    Of several threads and child processes the one that waited longest for a core in a slice counts.
    """
    last, start, queued = thread_clocks(pid), monotonic(), 0.0
    while not pipe.poll(SLICE_SECONDS):
        clocks = thread_clocks(pid)
        queued += max((_queued(clock, last.get(thread)) for thread, clock in clocks.items()), default=0.0)
        # the kernel adds a wait to its counter when the thread gets its core, so one that still waits is not late yet
        starved = any(clock.is_runnable and last.get(thread) == clock for thread, clock in clocks.items())
        if monotonic() - start - queued >= seconds and not starved:
            return pipe.poll(0)
        last = clocks
    return True


def _queued(clock: ThreadClock, before: ThreadClock | None) -> float:
    """Seconds that a thread waited for a core since the last look."""
    return (clock.queued - (before.queued if before else 0)) / 1e9
