"""A deadline that does not count the time in which a process waits for a CPU core, as on a loaded machine.

Linux counts for each thread the nanoseconds in which it was runnable and waited for a core (`/proc/PID/schedstat`,
second field). The deadline counts wall time minus that: what the task would take on an idle machine. Sleeping and
waiting for a network count as wall time, computation as CPU time. Where the kernel has no such counter (macOS), wall
time counts.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic

SLICE_SECONDS = 0.05  # interval between two readings of the counters


@dataclass(frozen=True)
class ThreadClock:
    """The kernel's counters of one thread in nanoseconds, and whether it is running or waiting for a core."""

    computed: int
    queued: int
    is_runnable: bool


def thread_clocks(pid: int) -> dict[int, ThreadClock]:
    """Return the counters of every thread of a process and of its descendants, by thread id; empty without counters."""
    clocks: dict[int, ThreadClock] = {}
    processes = [pid]
    while processes:
        folder = Path(f"/proc/{processes.pop()}/task")
        with suppress(OSError):  # the process has ended
            for thread in folder.iterdir():
                with suppress(OSError, ValueError, IndexError):
                    computed, queued, _ = (thread / "schedstat").read_text().split()
                    state = (thread / "stat").read_text().rpartition(")")[2].split()[0]
                    clocks[int(thread.name)] = ThreadClock(int(computed), int(queued), state == "R")
                    processes += map(int, (thread / "children").read_text().split())
    return clocks


def wait_for_answer(pipe: Connection, pid: int, seconds: float) -> bool:
    """Wait until the pipe of process `pid` is readable and return True, or False after `seconds` of charged time.

    If the process has several threads or children, the longest wait for a core among them is subtracted in each slice.
    """
    last, start, queued = thread_clocks(pid), monotonic(), 0.0
    while not pipe.poll(SLICE_SECONDS):
        clocks = thread_clocks(pid)
        queued += max((_queued(clock, last.get(thread)) for thread, clock in clocks.items()), default=0.0)
        # the kernel adds a wait to its counter only when the thread gets a core: one that is still waiting is not late
        starved = any(clock.is_runnable and last.get(thread) == clock for thread, clock in clocks.items())
        if monotonic() - start - queued >= seconds and not starved:
            return pipe.poll(0)
        last = clocks
    return True


def _queued(clock: ThreadClock, before: ThreadClock | None) -> float:
    """Return the seconds that a thread waited for a core since the last reading."""
    return (clock.queued - (before.queued if before else 0)) / 1e9
