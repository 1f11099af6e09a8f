"""The process from which worker processes are forked: single-threaded, without torch, started once.

It runs `serve` on one end of a socket pair. Requests and answers are JSON objects; a `start` request carries one end of
the worker's pipe. Workers are not forked in the training process, whose threads and devices do not survive a fork, and
the user's main script is not run again, as multiprocessing's start methods would.
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
PARENT_CHECK_SECONDS = 1.0  # a child of a killed parent may still hold the parent's end of the socket


def serve(fd: int) -> None:
    """Answer requests until the parent process is gone; then kill every worker.

    `{"start": module, "memory": bytes or null, "files": number or null, "silent": bool, "cwd": folder}`, sent with one
    end of a pipe, forks a worker that runs `module.handle`; the answer is `{"pid": n}`. `{"stop": pid}` kills a worker;
    the answer is `{}`.
    """
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, signal.SIG_IGN)
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
            module = importlib.import_module(request["start"])  # stays imported for the next worker
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
    """Kill a worker with its process group, and reap it."""
    for send_signal in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            send_signal(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def work(fd: int, module: ModuleType, request: dict[str, object]) -> None:
    """Run a worker: set its limits, then answer tasks with JSON until the pipe closes. Never returns.

    Completions of a model arrive as strings, and answers are parsed as JSON: nothing from a worker is unpickled.
    """
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    limits = ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, request["memory"]))
    for limit, maximum in (*limits, (resource.RLIMIT_NOFILE, request["files"])):
        if isinstance(maximum, int):
            with suppress(ValueError, OSError):  # macOS has no limit of the address space
                resource.setrlimit(limit, (maximum, maximum))
    with suppress(OSError):  # the folder may be gone; a verifier that reads relative paths will fail
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
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the parent closed the pipe
        os._exit(0)
    finally:
        os._exit(1)
