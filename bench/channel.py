"""The protocol of workers and driver: commands on stdin, a line of JSON on stdout for each.

step      one optimizer step, timed
memory    one optimizer step, its peak memory measured (freed memory is returned to the system first: slower)
rate      floating-point operations per second of a large matrix product
quit
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

RATE_SIZE, RATE_REPEATS = 1536, 5


class Channel:
    """The worker's end. Output of libraries goes to stderr, so that stdout has only the protocol."""

    def __init__(self, device: str = "cpu", dtype: str = "float32") -> None:
        self.device, self.dtype = device, getattr(torch, dtype)
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.measures_memory = False
        self.base = self.start = 0.0

    def send(self, row: dict[str, Any]) -> None:
        self.out.write(json.dumps(row) + "\n")
        self.out.flush()

    def wait(self) -> None:
        """Wait for the command for a step; SystemExit if the driver has ended."""
        while (command := sys.stdin.readline().strip()) == "rate":
            self.send({"rate": rate(self.device, self.dtype)})
        if command not in ("step", "memory"):
            raise SystemExit(0)
        self.measures_memory = command == "memory"
        if self.measures_memory:
            self.base = baseline(self.device)
        synchronize(self.device)
        self.start = time.perf_counter()

    def reply(self, phases: dict[str, float], generated: int, trained: int) -> None:
        """Send the step's seconds by phase, its tokens, and its bytes above those before the step."""
        synchronize(self.device)
        seconds = time.perf_counter() - self.start
        row: dict[str, Any] = {"seconds": {"step": seconds, **phases}, "generated": generated, "trained": trained}
        if self.measures_memory:
            row |= {"base": self.base, "peak": peak(self.device) - self.base}
            if self.device.startswith("cuda"):
                torch.cuda.empty_cache()  # the other program waits for its step on the same card
        self.send(row)


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def rate(device: str, dtype: torch.dtype) -> float:
    """Operations per second of a square matrix product; the best of a few."""
    size = RATE_SIZE if device == "cpu" else 8192
    first, second = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(RATE_REPEATS):
        synchronize(device)
        start = time.perf_counter()
        first @ second
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def baseline(device: str) -> float:
    """Bytes in use after freed memory was returned to the system; resets the peak."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.memory_allocated())
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak(device: str) -> float:
    """The most bytes in use since `baseline`."""
    return float(torch.cuda.max_memory_allocated()) if device.startswith("cuda") else status("VmHWM")


def status(name: str) -> float:
    """A figure of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[1]) * 1024
