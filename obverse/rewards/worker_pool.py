"""Worker processes that can be killed: what may hang or crash runs there, one task at a time, up to a deadline.

A deadline is charged with the time that the worker computes or sleeps, not with its waiting for a core.

No signal, timer or fork in this process: it works from any thread, from asyncio (by `asyncio.to_thread`) and in
several processes at once. Nothing is started before the first task; workers die with this process, however it ends.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from obverse.rewards.cpu_deadline import answered

MAX_TASKS = 1_000  # of one worker: then a fresh one takes its place
MAX_ANSWER_BYTES = 65_536
START_SECONDS = 120.0  # imports on a slow disk included
NUM_WORKERS = max(1, (os.cpu_count() or 2) // 2)
MAX_WORKERS = max(8, NUM_WORKERS)  # several threads that ask at once do not wait for each other's deadlines

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from obverse.rewards.fork_server import serve; serve(int(sys.argv[2]))"
)
_Answer = TypeVar("_Answer")


class WorkerError(Exception):
    """A task came to no answer; says why in a word: `timeout` or `crash`."""


@dataclass(frozen=True)
class Kind:
    """What a worker is for: the module whose `handle` it runs, and its limits."""

    module: str
    memory: int | None = None  # bytes of address space
    files: int | None = None  # open at once
    silent: bool = False  # what it prints goes nowhere
    code: str = ""  # the sha256 of the user's code that it runs: a worker runs one version of one file


class Zygote:
    """Our end of the process that forks workers; one request at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__.fileno() if sys.__stderr__ is not None else subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONHASHSEED": "0"},  # sets in the same order in every run
            )
        self.control = ours
        self.control.settimeout(START_SECONDS)

    def ask(self, request: dict[str, Any], fds: tuple[int, ...] = ()) -> dict[str, Any]:
        with self.lock:
            socket.send_fds(self.control, [json.dumps(request).encode()], fds)
            answer = self.control.recv(MAX_ANSWER_BYTES)
        if not answer:
            raise ConnectionResetError("the process that forks workers is gone")
        return json.loads(answer)

    def close(self) -> None:
        self.control.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=2)


@dataclass
class Worker:
    """One process and our end of its pipe."""

    kind: Kind
    pid: int = 0
    num_tasks: int = 0
    prepared: set[Any] = field(default_factory=set)
    pipe: Connection = field(init=False)

    def __post_init__(self) -> None:
        ours, theirs = socket.socketpair()
        request = {"start": self.kind.module, "memory": self.kind.memory, "files": self.kind.files}
        with theirs:
            about = request | {"silent": self.kind.silent, "cwd": _folder()}
            self.pid = _with_zygote(lambda zygote: zygote.ask(about, (theirs.fileno(),)))["pid"]
        self.pipe = Connection(ours.detach())

    def ask(self, task: Any, seconds: float) -> Any:
        """Return what it answers. Errors: WorkerError; the worker is then of no use any more."""
        self.num_tasks += 1
        try:
            self.pipe.send(task)
            if not answered(self.pipe, self.pid, seconds):
                raise WorkerError("timeout")
            return json.loads(self.pipe.recv_bytes(MAX_ANSWER_BYTES))
        except (EOFError, OSError, ValueError) as error:  # it died; or what it sent is none of ours
            raise WorkerError("crash") from error

    def stop(self) -> None:
        self.pipe.close()
        with suppress(OSError):  # without the process that forks there is no worker either
            _with_zygote(lambda zygote: zygote.ask({"stop": self.pid}))


class Pool:
    """Workers of one kind, started when they are needed and used again."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.places = threading.BoundedSemaphore(MAX_WORKERS)
        self.idle: list[Worker] = []

    def ask(self, task: Any, seconds: float, before: Any = None, fresh: bool = False) -> Any:
        """Return a worker's answer to a task; waits for a free worker, then at most `seconds`. Errors: WorkerError.

        A task may be any data that pickle takes; the answer is JSON. The task `before` is given to each worker once,
        outside the deadline: what is slow the first time only. A `fresh` worker has had no task and gets no other.
        """
        with self.places:
            worker, keep = Worker(self.kind) if fresh else self._take(), False
            try:
                if before is not None and before not in worker.prepared:
                    worker.ask(before, START_SECONDS)
                    worker.prepared.add(before)
                answer = worker.ask(task, seconds)
                keep = not fresh and worker.num_tasks < MAX_TASKS
            finally:  # an interrupted one still owes an answer to a question that nobody asks any more
                if keep:
                    self.idle.append(worker)
                else:
                    worker.stop()
            return answer

    def warm(self) -> None:
        """Have one worker ready, so that the first task does not wait for imports."""
        with self.places:
            self.idle.append(self._take())

    def _take(self) -> Worker:
        while True:
            try:
                worker = self.idle.pop()
            except IndexError:
                return Worker(self.kind)
            if not worker.pipe.poll(0):  # else it died while it waited: that is nobody's answer
                return worker
            worker.stop()


_lock = threading.Lock()
_zygotes: list[Zygote] = []
_pools: dict[Kind, Pool] = {}


def pool(kind: Kind) -> Pool:
    """Return this process's workers of that kind."""
    with _lock:
        return _pools.setdefault(kind, Pool(kind))


def _with_zygote(do: Callable[[Zygote], _Answer]) -> _Answer:
    """Ask the process that forks workers; one that died, by whatever hand, is started once more."""
    for last in (False, True):
        with _lock:
            if not _zygotes:
                _zygotes.append(Zygote())
            zygote = _zygotes[0]
        try:
            return do(zygote)
        except OSError:
            with _lock:
                if _zygotes == [zygote]:
                    _zygotes.clear()
                    _pools.clear()
                    zygote.close()
            if last:
                raise
    raise AssertionError("unreachable")


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return os.sep


def _forget() -> None:
    """In a fork of this process: its parent's workers are not its own."""
    global _lock
    _lock = threading.Lock()
    _zygotes.clear()
    _pools.clear()


@atexit.register
def _close() -> None:
    for zygote in _zygotes:
        zygote.close()


os.register_at_fork(after_in_child=_forget)
