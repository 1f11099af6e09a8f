"""Ranks as processes of their own: what torchrun would start, without torchrun."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
SECONDS = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def variables(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun sets for a rank; the store is served by rank 0."""
    named = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in named.items()}


@dataclass
class Ended:
    """How a rank ended: its exit code (negative for a signal), what it printed, and when, in seconds."""

    code: int
    out: str
    err: str
    seconds: float = 0.0


class Ranks:
    """`size` processes that run `command`, each with its place in the environment."""

    def __init__(
        self, size: int, command: Sequence[str], extra: Mapping[int, Mapping[str, str]] | None = None, cwd: Any = None
    ) -> None:
        port, start = free_port(), time.monotonic()
        shared = os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"}
        self.processes, self.ended, self.threads = [], [Ended(99, "", "") for _ in range(size)], []
        for rank in range(size):
            environment = shared | variables(rank, size, port) | dict((extra or {}).get(rank, {}))
            self.processes.append(
                subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=cwd
                )
            )
        for rank in range(size):
            self.threads.append(threading.Thread(target=self._follow, args=(rank, start)))
            self.threads[-1].start()

    def _follow(self, rank: int, start: float) -> None:
        out, err = self.processes[rank].communicate()
        self.ended[rank] = Ended(self.processes[rank].returncode, out, err, time.monotonic() - start)

    def wait(self, seconds: float = SECONDS) -> list[Ended]:
        """How each ended; whoever is not done by then is killed, and its code tells."""
        deadline = time.monotonic() + seconds
        for thread in self.threads:
            thread.join(max(deadline - time.monotonic(), 0))
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        for thread in self.threads:
            thread.join()
        return self.ended


def python(size: int, program: str, seconds: float = SECONDS) -> list[Any]:
    """Run a program on every rank; what each printed as its last line, read as JSON."""
    ended = Ranks(size, [sys.executable, "-W", "ignore", "-c", program]).wait(seconds)
    assert all(each.code == 0 for each in ended), "\n".join(each.err for each in ended)
    return [json.loads(each.out.splitlines()[-1]) for each in ended]
