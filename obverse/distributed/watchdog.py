"""Detects ranks that fail, hang or disappear: within seconds all other ranks report it and end with exit code 8.

A thread per rank writes a heartbeat with the progress of the main thread into the ranks' store, on a connection of its
own, and reads those of others: rank 0 watches all ranks, the others watch rank 0. A rank that fails writes why. A rank
that sees a failure gives its main thread a moment to end, because the same error mostly reaches it too, and then ends
the process: a main thread that waits in a collective cannot be interrupted.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from obverse.distributed.env import RankEnv
from obverse.errors import PeerError, UserError
from obverse.redact import flat

HEARTBEAT_SECONDS = 0.5  # between two heartbeats
GRACE_SECONDS = 2.0  # for the main thread to end with the same error
LOST_SECONDS = 5.0  # without a heartbeat, once a connection has broken
SILENT_SECONDS = 60.0  # without a heartbeat from another machine, which may be busy, while no connection has broken
STORE_SECONDS = 30.0  # timeout of the store


@dataclass(frozen=True)
class Heartbeat:
    """A rank's heartbeat.

    `idle` is the time since the main thread's last progress, in seconds; `collective` is the one it waits in, if any.
    Processes with the same `pid_namespace` can look up each other's `pid`.
    """

    number: int = 0
    phase: str = "load"
    step: int = 0
    collective: str = ""
    idle: float = 0.0
    is_broken: bool = False  # a collective failed
    is_leaving: bool = False
    pid: int = 0
    host: str = ""
    pid_namespace: str = ""


@dataclass(frozen=True)
class Failure:
    """Which rank ended the run, and why."""

    rank: int
    kind: Literal["failed", "lost", "hung"]
    cause: str
    pid: int = 0
    host: str = ""
    phase: str = ""
    step: int = 0

    def __str__(self) -> str:
        where = f"{'last seen in' if self.kind == 'lost' else 'in'} phase {self.phase} after step {self.step}"
        return f"rank {self.rank} (process {self.pid} on {self.host}) {self.cause} ({where})"


def first_heartbeat() -> Heartbeat:
    """A heartbeat with the pid, host and pid namespace of this process."""
    host = flat(socket.gethostname())
    pid_namespace = host
    with suppress(OSError):  # containers may share a host name, but not their processes
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        pid_namespace = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return Heartbeat(pid=os.getpid(), host=host, pid_namespace=pid_namespace)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; a zombie does not."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] != "Z"
        )
    except OSError:
        pass
    if Path("/proc/self").exists():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


class Watchdog:
    """Watches the other ranks and writes this rank's heartbeat.

    A rank without progress for `timeout` seconds hangs. `open_store` opens a connection with a timeout in seconds.
    """

    def __init__(self, rank_env: RankEnv, open_store: Callable[[float], Any], timeout: float) -> None:
        self.rank_env, self.timeout = rank_env, timeout
        seconds = min(STORE_SECONDS, max(timeout, LOST_SECONDS))
        # a connection per thread: each may block for long
        self.main_store, self.watch_store = open_store(seconds), open_store(seconds)
        self.heartbeat_now = first_heartbeat()  # only the main thread assigns it
        self.number = 0  # of heartbeats written
        self.last_progress = time.monotonic()
        self.failure: Failure | None = None
        self.has_failed = False  # this rank itself
        self.failure_seen = threading.Event()
        self.stopped = threading.Event()
        self.recovery_advice: Callable[[], str] = str  # what is left of the run and how to resume it, "" if nothing is
        self.last_heartbeats: dict[int, tuple[Heartbeat, float]] = {}  # by rank, with the time of arrival
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._write_next_heartbeat()
        self.thread.start()

    # Called by the main thread.

    def enter_collective(self, name: str) -> None:
        self.heartbeat()
        self.heartbeat_now = replace(self.heartbeat_now, collective=name)

    def exit_collective(self) -> None:
        self.last_progress = time.monotonic()
        self.heartbeat_now = replace(self.heartbeat_now, collective="")

    def heartbeat(self, phase: str = "", step: int = -1) -> None:
        """Record progress of the main thread. Raises PeerError once another rank is known to have failed."""
        self.last_progress = time.monotonic()
        current = self.heartbeat_now
        self.heartbeat_now = replace(current, phase=phase or current.phase, step=max(step, current.step))
        if self.failure_seen.is_set() and self.failure is not None and self.failure.rank != self.rank_env.rank:
            raise PeerError(str(self.failure))

    def failure_reason(self, reason: str) -> str:
        """A sentence about the failure that broke a collective; waits until it is known."""
        self.heartbeat_now = replace(self.heartbeat_now, is_broken=True)
        self.failure_seen.wait(LOST_SECONDS + 2 * GRACE_SECONDS)
        if self.failure:
            return str(self.failure)
        return f"rank {self.rank_env.rank} lost contact to another rank: {reason}"

    def announce_failure(self, error: BaseException, code: int) -> None:
        """Tell the other ranks why this one ends, unless they know of a failure already.

        At the end of the Python program the process exits with `code` at once: closing a connection may hang.
        """
        self.has_failed = True
        if not isinstance(error, PeerError):
            lines = flat(error).splitlines() or [""]
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            cause = f"failed: {kind}{lines[0]:.500}"
            failure = self._failure_of(self.rank_env.rank, self.heartbeat_now, "failed", cause)
            self._publish(failure, self.main_store)
        with suppress(RuntimeError):
            self._wait_for_readers(self.main_store)
        self.stop(HEARTBEAT_SECONDS)
        atexit.register(os._exit, code)

    def _wait_for_readers(self, store: Any) -> None:
        """If the store ends with this process, wait for a moment until the other ranks have read the failure."""
        deadline = time.monotonic() + GRACE_SECONDS
        # of all ranks, this one does not read it, and neither does the lost one
        num_absent = 1 if self.failure is None or self.failure.rank == self.rank_env.rank else 2
        while self.rank_env.hosts_store and self.rank_env.is_first and time.monotonic() < deadline:
            if store.add("num_readers", 0) >= self.rank_env.size - num_absent:
                return
            time.sleep(0.05)

    def leave(self) -> None:
        """Announce that this rank ends without an error; call it before the last barrier, and `stop` after it."""
        self.heartbeat_now = replace(self.heartbeat_now, is_leaving=True)
        self._write_heartbeat(self.main_store)

    def stop(self, seconds: float = STORE_SECONDS) -> None:
        """End the thread, and wait for it for at most `seconds`."""
        self.stopped.set()
        self.thread.join(seconds)

    # Called by the watchdog's thread.

    def _watch(self) -> None:
        while not self.stopped.wait(HEARTBEAT_SECONDS):
            try:
                self._write_next_heartbeat()
                self.failure = self._published_failure() or self._find_failure()
            except RuntimeError as error:  # the store is gone
                if self.stopped.is_set() or self.heartbeat_now.is_leaving:
                    return
                reason = "is gone with the store that it hosted"
                if not self.rank_env.hosts_store:
                    reason = "cannot be reached: torchrun's agent, which hosts the ranks' store, is gone"
                cause = f"{reason}: {str(error).splitlines()[0]:.200}"
                self.failure = self._failure_of(0, self._last_heartbeat(0), "lost", cause)
            if self.failure is not None:
                self._end(self.failure)
                return

    def _write_next_heartbeat(self) -> None:
        self.number += 1
        self._write_heartbeat(self.watch_store)

    def _write_heartbeat(self, store: Any) -> None:
        idle = time.monotonic() - self.last_progress
        current = replace(self.heartbeat_now, number=self.number, idle=idle)
        store.set(f"heartbeat/{self.rank_env.rank}", json.dumps(asdict(current)))

    def _published_failure(self) -> Failure | None:
        store = self.watch_store
        return Failure(**json.loads(store.get("failure"))) if store.check(["failure"]) else None

    def _find_failure(self) -> Failure | None:
        """The failure of a rank that cannot announce it, because it is gone or hangs."""
        heartbeats = self._read_heartbeats()
        failure = self._find_lost(heartbeats)
        if failure is None and self.rank_env.is_first:
            failure = self._find_hung(heartbeats)
        return failure and self._publish(failure, self.watch_store)

    def _read_heartbeats(self) -> dict[int, Heartbeat]:
        """The last heartbeats of the ranks that this one watches."""
        heartbeats: dict[int, Heartbeat] = {}
        for rank in range(self.rank_env.size) if self.rank_env.is_first else (0,):
            if self.watch_store.check([f"heartbeat/{rank}"]):
                heartbeats[rank] = Heartbeat(**json.loads(self.watch_store.get(f"heartbeat/{rank}")))
        return heartbeats

    def _find_lost(self, heartbeats: dict[int, Heartbeat]) -> Failure | None:
        """The failure of a rank whose process has ended or sends no heartbeats."""
        now = time.monotonic()
        is_broken = self.heartbeat_now.is_broken or any(heartbeat.is_broken for heartbeat in heartbeats.values())
        for rank, heartbeat in heartbeats.items():
            if rank not in self.last_heartbeats or self.last_heartbeats[rank][0].number != heartbeat.number:
                self.last_heartbeats[rank] = (heartbeat, now)
            silent = now - self.last_heartbeats[rank][1]
            is_near = heartbeat.pid_namespace == self.heartbeat_now.pid_namespace
            has_ended = is_near and not is_alive(heartbeat.pid)
            # a process that runs may send no heartbeat for long, while it writes a large file
            limit = LOST_SECONDS if is_broken else self.timeout if is_near else SILENT_SECONDS
            if (has_ended or silent > min(limit, max(self.timeout, LOST_SECONDS))) and not heartbeat.is_leaving:
                reason = "its process has ended without a message" if has_ended else f"no heartbeat for {silent:.0f} s"
                cause = f"is gone: {reason}; it was killed, or its machine is lost"
                return self._failure_of(rank, heartbeat, "lost", cause)
        return None

    def _find_hung(self, heartbeats: dict[int, Heartbeat]) -> Failure | None:
        """The failure of the rank that hangs for longest outside collectives, or of all ranks in collectives."""
        late = {rank: heartbeat for rank, heartbeat in heartbeats.items() if heartbeat.idle > self.timeout}
        busy = [rank for rank, heartbeat in late.items() if not heartbeat.collective]
        if busy:
            rank = max(busy, key=lambda rank: late[rank].idle)
            cause = f"hangs: no progress for {late[rank].idle:.0f} s, more than --ddp_timeout {self.timeout:g}"
            return self._failure_of(rank, late[rank], "hung", cause)
        if len(late) == self.rank_env.size:
            first = late[0]
            cause = f"waits in {first.collective} for {first.idle:.0f} s, as all other ranks, more than --ddp_timeout"
            return self._failure_of(0, first, "hung", cause)
        return None

    def _failure_of(
        self, rank: int, heartbeat: Heartbeat, kind: Literal["failed", "lost", "hung"], cause: str
    ) -> Failure:
        return Failure(rank, kind, cause, heartbeat.pid, heartbeat.host, heartbeat.phase, heartbeat.step)

    def _last_heartbeat(self, rank: int) -> Heartbeat:
        return self.last_heartbeats[rank][0] if rank in self.last_heartbeats else Heartbeat(host="an unknown machine")

    def _publish(self, failure: Failure, store: Any) -> Failure:
        """Write a failure into the store, unless there is one; returns the one in the store."""
        with suppress(RuntimeError):  # the rank with the store may be gone
            return Failure(**json.loads(store.compare_set("failure", "", json.dumps(asdict(failure)))))
        return failure

    def _end(self, failure: Failure) -> None:
        """Give the main thread a moment to end, and then end the process."""
        is_own = failure.rank == self.rank_env.rank
        with suppress(RuntimeError):
            if is_own:
                self._wait_for_readers(self.watch_store)
            else:
                self.watch_store.add("num_readers", 1)
        # an exception of this rank may be about to end it, with another exit code
        if failure.kind == "failed" and (self.stopped.wait(GRACE_SECONDS) or is_own):
            return
        self.failure_seen.set()
        if not (is_own and failure.kind == "hung") and self.stopped.wait(GRACE_SECONDS):
            return
        with suppress(OSError):
            advice = self.recovery_advice()
            message = (
                f"error: {failure}; this rank, {self.rank_env.rank}, has ended too{'; ' + advice if advice else ''}\n"
            )
            os.write(2, ("\x1b[?25h" if os.isatty(2) else "").encode() + flat(message).encode("utf-8", "replace"))
        os._exit(PeerError.exit_code)
