"""When a rank fails, hangs or is gone, the others learn of it within seconds, say so, and end with exit code 8.

A thread per rank writes a sign of life and where the main thread stands into the ranks' common store, on a connection
of its own, and reads what others wrote. Rank 0 looks after all, the others after rank 0. A rank that fails writes why.
Who hears of a loss gives its main thread a moment to end by itself, for mostly the same error is on its way there, and
then ends the process: a thread that waits in a collective hears nothing.
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

BEAT_SECONDS = 0.5
GRACE_SECONDS = 2.0  # for the main thread to meet the same error by itself
LOST_SECONDS = 5.0  # without a sign of life, once a connection has broken
SILENT_SECONDS = 60.0  # of another machine while nothing has broken: it may be that busy
STORE_SECONDS = 30.0  # that the store may take to answer


@dataclass(frozen=True)
class Beat:
    """A rank's sign of life. `idle` are seconds since its main thread got on; `waits` names its collective, if any."""

    number: int = 0
    phase: str = "load"
    step: int = 0
    waits: str = ""
    idle: float = 0.0
    is_broken: bool = False  # a collective broke off
    is_leaving: bool = False
    pid: int = 0
    host: str = ""
    home: str = ""  # processes with the same home see each other's numbers


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


def own_beat() -> Beat:
    """This process."""
    host = flat(socket.gethostname())
    home = host
    with suppress(OSError):  # containers may share a name, and not their processes
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        home = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return Beat(pid=os.getpid(), host=host, home=home)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; one that is dead and not yet fetched by its parent does not."""
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
    """Looks after the other ranks, and tells them of this one. `timeout`: seconds without progress that are a hang."""

    def __init__(self, place: RankEnv, open_store: Callable[[float], Any], timeout: float) -> None:
        self.place, self.timeout = place, timeout
        seconds = min(STORE_SECONDS, max(timeout, LOST_SECONDS))
        self.mine, self.store = open_store(seconds), open_store(seconds)  # one a thread: each may hold it long
        self.me = own_beat()  # the main thread alone writes it; what the other one counts stands beside it
        self.number = 0
        self.since = time.monotonic()
        self.failure: Failure | None = None
        self.has_failed = False  # this rank itself
        self.heard = threading.Event()  # of a failure
        self.stopped = threading.Event()
        self.kept: Callable[[], str] = str  # what is left of the run and how it goes on; "" while there is none
        self.last: dict[int, tuple[Beat, float]] = {}  # by rank, and when it came
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._tell()
        self.thread.start()

    # What the main thread says.

    def enter(self, what: str) -> None:
        self.beat()
        self.me = replace(self.me, waits=what)

    def exit(self) -> None:
        self.since = time.monotonic()
        self.me = replace(self.me, waits="")

    def beat(self, phase: str = "", step: int = -1) -> None:
        """Note where the main thread is. Raises PeerError once a peer is known to be lost."""
        self.since = time.monotonic()
        self.me = replace(self.me, phase=phase or self.me.phase, step=max(step, self.me.step))
        if self.heard.is_set() and self.failure is not None and self.failure.rank != self.place.rank:
            raise PeerError(str(self.failure))

    def lost(self, reason: str) -> str:
        self.me = replace(self.me, is_broken=True)
        self.heard.wait(LOST_SECONDS + 2 * GRACE_SECONDS)
        return str(self.failure) if self.failure else f"rank {self.place.rank} lost contact to another rank: {reason}"

    def fail(self, error: BaseException, code: int) -> None:
        """Tell the others why this rank ends, unless they know of a failure already.

        Once Python is done with it the process ends with `code`, and without a goodbye to connections of which one may
        hang.
        """
        self.has_failed = True
        if not isinstance(error, PeerError):
            self._tell_why(error)
        with suppress(RuntimeError):
            self._let_them_hear(self.mine)
        self.stop(BEAT_SECONDS)
        atexit.register(os._exit, code)

    def _tell_why(self, error: BaseException) -> None:
        cause = flat(error).splitlines() or [""]
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        self._publish(self._about(self.place.rank, self.me, "failed", f"failed: {kind}{cause[0]:.500}"), self.mine)

    def _let_them_hear(self, store: Any) -> None:
        """Where the store ends with this process: wait until the others have read in it, but not long."""
        deadline = time.monotonic() + GRACE_SECONDS
        num_silent = 1 if self.failure is None or self.failure.rank == self.place.rank else 2  # itself, who was lost
        while self.place.hosts_store and self.place.is_first and time.monotonic() < deadline:
            if store.add("heard", 0) >= self.place.size - num_silent:
                return
            time.sleep(0.05)

    def leave(self) -> None:
        """From now on it is no loss when a rank ends; call it before the ranks' last meeting, and `stop` after it."""
        self.me = replace(self.me, is_leaving=True)
        self._write(self.mine)

    def stop(self, seconds: float = STORE_SECONDS) -> None:
        self.stopped.set()
        self.thread.join(seconds)

    # What its own thread does.

    def _watch(self) -> None:
        while not self.stopped.wait(BEAT_SECONDS):
            try:
                self._tell()
                self.failure = self._read_failure() or self._look_around()
            except RuntimeError as error:  # of the store; nobody serves it any more
                if self.stopped.is_set() or self.me.is_leaving:
                    return
                who = "is gone with the store that it served"
                if not self.place.hosts_store:
                    who = "cannot be heard: torchrun's agent, which serves the ranks' store, is gone"
                cause = f"{who}: {str(error).splitlines()[0]:.200}"
                self.failure = self._about(0, self._last_of(0), "lost", cause)
            if self.failure is not None:
                self._end(self.failure)
                return

    def _tell(self) -> None:
        self.number += 1
        self._write(self.store)

    def _write(self, store: Any) -> None:
        beat = replace(self.me, number=self.number, idle=time.monotonic() - self.since)
        store.set(f"beat/{self.place.rank}", json.dumps(asdict(beat)))

    def _read_failure(self) -> Failure | None:
        return Failure(**json.loads(self.store.get("failure"))) if self.store.check(["failure"]) else None

    def _look_around(self) -> Failure | None:
        """The failure of a rank that cannot tell it: one that is gone, or does not get on."""
        watched = range(self.place.size) if self.place.is_first else (0,)
        now, beats = time.monotonic(), {}
        for rank in watched:
            if self.store.check([f"beat/{rank}"]):
                beats[rank] = Beat(**json.loads(self.store.get(f"beat/{rank}")))
        is_broken = self.me.is_broken or any(beat.is_broken for beat in beats.values())
        found = None
        for rank, beat in beats.items():
            if rank not in self.last or self.last[rank][0].number != beat.number:
                self.last[rank] = (beat, now)
            silent, is_near = now - self.last[rank][1], beat.home == self.me.home
            gone = is_near and not is_alive(beat.pid)
            # a process that is there may be unable to speak for long, while it writes a large file
            limit = LOST_SECONDS if is_broken else self.timeout if is_near else SILENT_SECONDS
            if (gone or silent > min(limit, max(self.timeout, LOST_SECONDS))) and not beat.is_leaving:
                told = "its process has ended without a word" if gone else f"not heard of for {silent:.0f} s"
                found = self._about(rank, beat, "lost", f"is gone: {told}; it was killed, or its machine is lost")
                break
        if found is None and self.place.is_first:
            found = self._stuck(beats)
        return found and self._publish(found, self.store)

    def _stuck(self, beats: dict[int, Beat]) -> Failure | None:
        """Who has not got on for longest, and for `timeout` seconds, and waits for nobody; or that all wait."""
        late = {rank: beat for rank, beat in beats.items() if beat.idle > self.timeout}
        busy = [rank for rank, beat in late.items() if not beat.waits]
        if busy:
            rank = max(busy, key=lambda rank: late[rank].idle)
            told = f"no progress for {late[rank].idle:.0f} s, more than --ddp_timeout {self.timeout:g}"
            return self._about(rank, late[rank], "hung", f"hangs: {told}")
        if len(late) == self.place.size:
            cause = f"waits in {late[0].waits} for {late[0].idle:.0f} s, and so do all others, more than --ddp_timeout"
            return self._about(0, late[0], "hung", cause)
        return None

    def _about(self, rank: int, beat: Beat, kind: Literal["failed", "lost", "hung"], cause: str) -> Failure:
        return Failure(rank, kind, cause, beat.pid, beat.host, beat.phase, beat.step)

    def _last_of(self, rank: int) -> Beat:
        return self.last[rank][0] if rank in self.last else Beat(host="an unknown machine")

    def _publish(self, failure: Failure, store: Any) -> Failure:
        """The first failure that anybody tells is the run's; it is returned."""
        with suppress(RuntimeError):  # who serves the store may be gone already
            told = store.compare_set("failure", "", json.dumps(asdict(failure)))
            return Failure(**json.loads(told))
        return failure

    def _end(self, failure: Failure) -> None:
        """Let the main thread end by itself, if it can, and end the process if it cannot."""
        is_mine = failure.rank == self.place.rank
        with suppress(RuntimeError):
            if is_mine:
                self._let_them_hear(self.store)
            else:
                self.store.add("heard", 1)
        # a failure of this rank may be on its way here as an exception, with an exit code of its own
        if failure.kind == "failed" and (self.stopped.wait(GRACE_SECONDS) or is_mine):
            return
        self.heard.set()
        if not (is_mine and failure.kind == "hung") and self.stopped.wait(GRACE_SECONDS):
            return
        with suppress(OSError):
            kept = self.kept()
            sentence = f"error: {failure}; this rank, {self.place.rank}, has ended too{'; ' + kept if kept else ''}\n"
            os.write(2, ("\x1b[?25h" if os.isatty(2) else "").encode() + flat(sentence).encode("utf-8", "replace"))
        os._exit(PeerError.exit_code)
