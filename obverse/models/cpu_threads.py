"""The number of CPU threads for a model, from timed matrix products of the model's shapes."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SMALL_MODEL = 20_000_000  # parameters: below, one thread is the fastest, and a run is the same bit for bit everywhere
NUM_TOKENS = 256  # rows of the timed products, as in a small micro batch
MAX_SIDE = 2048  # of a timed matrix: larger ones take longer at the same throughput
NUM_SHAPES = 2
SECONDS = 0.2  # for all products together, without the first of each
MIN_SPEEDUP = 1.15  # of more threads; a smaller gain can vanish when other processes use the cores

Shape = tuple[int, int]


@dataclass(frozen=True)
class Throughput:
    """Floating-point operations per second with a number of threads and a data type."""

    threads: int
    dtype: str
    rate: float

    def __str__(self) -> str:
        return f"{self.dtype} {self.rate / 1e9:.0f} GFLOP/s"


def best_threads(model: Any) -> int:
    """The number of threads for a model: 1, 2, 4, ... up to the number of cores that this process may use.

    1 for a small model, without timing. The number of threads changes the order of sums and so the last bits of
    results: a run that must be repeated exactly sets --threads.
    """
    device = next(model.parameters()).device
    if device.type != "cpu":
        return torch.get_num_threads()
    if sum(parameter.numel() for parameter in model.parameters()) < SMALL_MODEL or num_cores() == 1:
        return 1
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return best(measure(shapes(model), (dtype,)))


def best(throughputs: Sequence[Throughput]) -> int:
    """The number of threads above which no larger number is faster by MIN_SPEEDUP.

    `throughputs` are of one data type, by rising number of threads.
    """
    chosen = throughputs[0]
    for throughput in throughputs[1:]:
        if throughput.rate > MIN_SPEEDUP * chosen.rate:
            chosen = throughput
    return chosen.threads


def measure(of: Sequence[Shape], dtypes: Sequence[str], seconds: float = SECONDS) -> list[Throughput]:
    """The throughput of matrix products of these shapes, by data type and number of threads.

    Takes about `seconds` in all. torch's number of threads is restored afterwards.
    """
    numbers = candidates(num_cores())
    seconds_each = seconds / (len(numbers) * len(dtypes) * len(of))
    throughputs = []
    for dtype in dtypes:
        pairs = [operands(shape, getattr(torch, dtype)) for shape in of]
        for threads in numbers:
            with using(threads):
                rates = [rate(*pair, seconds_each) for pair in pairs]
            throughputs.append(Throughput(threads, dtype, len(rates) / sum(1 / value for value in rates)))
    return throughputs


def shapes(model: Any) -> list[Shape]:
    """The matrix shapes that take most of a model's operations, with sides of at most MAX_SIDE."""
    matrices = [parameter.shape for parameter in model.parameters() if parameter.ndim == 2]
    work: Counter[Shape] = Counter()
    for rows, columns in matrices:
        work[min(rows, MAX_SIDE), min(columns, MAX_SIDE)] += rows * columns
    return [shape for shape, _ in work.most_common(NUM_SHAPES)]


def operands(shape: Shape, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Hidden states and a matrix of the shape (out, in), as a linear layer multiplies them."""
    return torch.full((NUM_TOKENS, shape[1]), 0.5, dtype=dtype), torch.full(shape, 0.5, dtype=dtype)


def rate(states: Tensor, matrix: Tensor, seconds: float) -> float:
    """Operations per second of the fastest product within `seconds`; at least one is run."""
    torch.nn.functional.linear(states, matrix)  # warm-up: starts threads, allocates memory
    fastest, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        torch.nn.functional.linear(states, matrix)
        finished = time.perf_counter()
        fastest = min(fastest, finished - start)
        if finished + fastest >= end:
            return 2 * states.shape[0] * matrix.numel() / fastest


def candidates(cores: int) -> list[int]:
    """The numbers of threads to try: powers of two up to the number of cores, and that number."""
    return sorted({2**power for power in range(cores.bit_length()) if 2**power <= cores} | {cores})


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def using(threads: int) -> Iterator[None]:
    """Set torch's number of threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
