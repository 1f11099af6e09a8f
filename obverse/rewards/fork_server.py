"""The process that worker processes are forked from: single-threaded, without torch, started once.

It runs `serve` on one end of a socket pair. A request is one JSON object, answered by one; a pipe's end travels with
`start`. Workers are forked here and never in the training process, whose threads and devices do not survive a fork;
nor is the user's main script run again, as multiprocessing's own start methods would.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from types import ModuleType

MAX_REQUEST_BYTES = 65_536
PARENT_CHECK_SECONDS = 1.0  # a parent that was killed may have left its end of the socket to a child


def serve(fd: int) -> None:
    """Answer requests until the parent is gone; then kill every worker.

    `{"start": module, "memory": bytes or null, "files": number or null, "silent": bool, "cwd": folder}` with a pipe's
    end forks a worker that runs `module.handle` and answers `{"pid": n}`; `{"stop": pid}` kills one and answers `{}`.
    """
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    parent, control, workers = os.getppid(), socket.socket(fileno=fd), set[int]()
    while os.getppid() == parent:
        if not select.select([control], [], [], PARENT_CHECK_SECONDS)[0]:
            continue
        message, fds, _, _ = socket.recv_fds(control, MAX_REQUEST_BYTES, 1)
        if not message:
            break
        request = json.loads(message)
        answer = {}
        if "start" in request:
            module = importlib.import_module(request["start"])  # kept: the next worker has it at once
            pid = os.fork()
            if pid == 0:
                control.close()
                work(fds[0], module, request)
            os.close(fds[0])
            workers.add(pid)
            answer["pid"] = pid
        elif request["stop"] in workers:
            kill(request["stop"])
            workers.discard(request["stop"])
        control.sendall(json.dumps(answer).encode())
    for pid in workers:
        kill(pid)


def kill(pid: int) -> None:
    """End a worker, and whatever it started in its process group, and take its exit status."""
    for end in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            end(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def work(fd: int, module: ModuleType, request: dict[str, object]) -> None:
    """A worker's whole life: limits, then one task after another; what it answers is JSON. Never returns.

    What a model wrote arrives as a string and leaves as a verdict: nothing that a worker says is ever unpickled.
    """
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    limits = ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, request["memory"]))
    for limit, most in (*limits, (resource.RLIMIT_NOFILE, request["files"])):
        if isinstance(most, int):
            with suppress(ValueError, OSError):  # macOS knows no limit of the address space
                resource.setrlimit(limit, (most, most))
    with suppress(OSError):  # the folder may be gone; a verifier that reads relative paths will say so
        os.chdir(str(request["cwd"]))
    if request["silent"]:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
    pipe = Connection(fd)
    try:
        while True:
            answer = module.handle(pipe.recv())
            pipe.send_bytes(json.dumps(answer).encode())
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the parent has no use for it any more
        os._exit(0)
    finally:
        os._exit(1)
