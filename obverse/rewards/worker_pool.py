"""Worker processes that can be killed: code that may hang or crash runs there, one task at a time, with a deadline.

The deadline counts the time in which the worker computes or sleeps, not the time in which it waits for a CPU core.

This process uses no signal, timer or fork, so that graders work from any thread, from asyncio (by `asyncio.to_thread`)
and in several processes at once. Nothing is started before the first task; workers end with this process, however it
ends.
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

from obverse.rewards.cpu_deadline import wait_for_answer

MAX_TASKS = 1_000  # per worker; then a fresh one replaces it
MAX_ANSWER_BYTES = 65_536
START_SECONDS = 120.0  # time limit of a start, with imports from a slow disk
NUM_WORKERS = max(1, (os.cpu_count() or 2) // 2)
MAX_WORKERS = max(8, NUM_WORKERS)  # so that threads that ask at the same time do not wait for each other's deadlines

_START_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from obverse.rewards.fork_server import serve; serve(int(sys.argv[2]))"
)
_Answer = TypeVar("_Answer")


class WorkerError(Exception):
    """A task without an answer; the message is `timeout` or `crash`."""


@dataclass(frozen=True)
class WorkerSpec:
    """The module whose `handle` a worker runs, and the worker's limits."""

    module: str
    memory: int | None = None  # limit of the address space, in bytes
    files: int | None = None  # limit of open files
    silent: bool = False  # discard standard output and standard error
    code: str = ""  # sha256 of the user's code that it runs: a worker runs one version of one file


class ForkServer:
    """The connection to the process that forks workers; one request at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        parent_end, child_end = socket.socketpair()
        with child_end:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START_CODE, json.dumps(sys.path), str(child_end.fileno())],
                pass_fds=[child_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__.fileno() if sys.__stderr__ is not None else subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONHASHSEED": "0"},  # the same order of sets in every run
            )
        self.control = parent_end
        self.control.settimeout(START_SECONDS)

    def ask(self, request: dict[str, Any], fds: tuple[int, ...] = ()) -> dict[str, Any]:
        """Send a request with file descriptors and return the answer. Raises OSError if the process is gone."""
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
    """One worker process and this process's end of its pipe."""

    spec: WorkerSpec
    pid: int = 0
    num_tasks: int = 0
    prepared: set[Any] = field(default_factory=set)
    pipe: Connection = field(init=False)

    def __post_init__(self) -> None:
        parent_end, child_end = socket.socketpair()
        request = {"start": self.spec.module, "memory": self.spec.memory, "files": self.spec.files}
        request |= {"silent": self.spec.silent, "cwd": _working_directory()}
        with child_end:
            self.pid = _with_fork_server(lambda server: server.ask(request, (child_end.fileno(),)))["pid"]
        self.pipe = Connection(parent_end.detach())

    def ask(self, task: Any, seconds: float) -> Any:
        """Return the answer to a task. Errors: WorkerError, after which the worker must not be used again."""
        self.num_tasks += 1
        try:
            self.pipe.send(task)
            if not wait_for_answer(self.pipe, self.pid, seconds):
                raise WorkerError("timeout")
            return json.loads(self.pipe.recv_bytes(MAX_ANSWER_BYTES))
        except (EOFError, OSError, ValueError) as error:  # the process ended, or sent something that is not JSON
            raise WorkerError("crash") from error

    def stop(self) -> None:
        self.pipe.close()
        with suppress(OSError):  # workers do not outlive the fork server
            _with_fork_server(lambda server: server.ask({"stop": self.pid}))


class WorkerPool:
    """Workers of one spec, started on demand and reused."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.slots = threading.BoundedSemaphore(MAX_WORKERS)
        self.idle: list[Worker] = []

    def ask(self, task: Any, seconds: float, before: Any = None, fresh: bool = False) -> Any:
        """Return a worker's answer to a task; waits for a free worker, then at most `seconds`. Errors: WorkerError.

        Args:
            task: Any data that pickle takes; the answer is JSON.
            seconds: Time limit of the task.
            before: A task that each worker gets once, outside the time limit: preparation that is slow the first time.
            fresh: Use a new worker, and stop it afterwards.
        """
        with self.slots:
            worker, reusable = Worker(self.spec) if fresh else self._take(), False
            try:
                if before is not None and before not in worker.prepared:
                    worker.ask(before, START_SECONDS)
                    worker.prepared.add(before)
                answer = worker.ask(task, seconds)
                reusable = not fresh and worker.num_tasks < MAX_TASKS
            finally:  # after an interrupt the worker would answer the interrupted task
                if reusable:
                    self.idle.append(worker)
                else:
                    worker.stop()
            return answer

    def warm(self) -> None:
        """Start one worker, so that the first task does not wait for imports."""
        with self.slots:
            self.idle.append(self._take())

    def _take(self) -> Worker:
        while True:
            try:
                worker = self.idle.pop()
            except IndexError:
                return Worker(self.spec)
            if not worker.pipe.poll(0):  # readable while idle: the process has ended
                return worker
            worker.stop()


_lock = threading.Lock()
_fork_servers: list[ForkServer] = []  # one at most
_pools: dict[WorkerSpec, WorkerPool] = {}


def pool(spec: WorkerSpec) -> WorkerPool:
    """Return this process's pool of workers of that spec."""
    with _lock:
        return _pools.setdefault(spec, WorkerPool(spec))


def _with_fork_server(request: Callable[[ForkServer], _Answer]) -> _Answer:
    """Call `request` with the fork server; if that process has ended, start it again and retry once."""
    for is_retry in (False, True):
        with _lock:
            if not _fork_servers:
                _fork_servers.append(ForkServer())
            server = _fork_servers[0]
        try:
            return request(server)
        except OSError:
            with _lock:
                if _fork_servers == [server]:
                    _fork_servers.clear()
                    _pools.clear()
                    server.close()
            if is_retry:
                raise
    raise AssertionError("unreachable")


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return os.sep


def _reset_after_fork() -> None:
    """In a fork of this process: do not use the workers of the parent process."""
    global _lock
    _lock = threading.Lock()
    _fork_servers.clear()
    _pools.clear()


@atexit.register
def _close() -> None:
    for server in _fork_servers:
        server.close()


os.register_at_fork(after_in_child=_reset_after_fork)
