"""Where a card's memory went: torch's own record of a step's allocations, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from obverse.errors import ConfigError

NAME = "memory-snapshot.json"
MAX_EVENTS = 200_000  # allocations and frees that are kept, with the lines of code that made them


def refuse_without_card(step: int, device: str) -> None:
    """Raise ConfigError for a snapshot of a device whose memory torch keeps no record of."""
    if step and not device.startswith("cuda"):
        raise ConfigError(f"--memory_snapshot: torch records the memory of CUDA devices, and this run is on {device}")


@contextmanager
def recorded(folder: Path, is_due: bool) -> Iterator[None]:
    """Record what is allocated inside and write it into `folder`, also when it ends for want of memory; or do nothing.

    The file holds what `torch.cuda.memory._snapshot()` returns: segments, blocks, and `device_traces` with a stack for
    every event. torch's own way to write it is a pickle, which nothing here writes.
    """
    if not is_due:
        yield
        return
    torch.cuda.memory._record_memory_history(max_entries=MAX_EVENTS)
    try:
        yield
    finally:
        found = torch.cuda.memory._snapshot()
        torch.cuda.memory._record_memory_history(enabled=None)
        (folder / NAME).write_text(json.dumps(found, default=str), encoding="utf-8")
