"""A snapshot of CUDA memory: torch's record of the allocations of a step, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from obverse.errors import ConfigError

NAME = "memory-snapshot.json"
MAX_EVENTS = 200_000  # allocations and frees in the record, with their stack traces


def refuse_without_card(step: int, device: str) -> None:
    """Raise ConfigError for a snapshot on a device other than CUDA, whose memory torch does not record."""
    if step and not device.startswith("cuda"):
        raise ConfigError(f"--memory_snapshot: torch records the memory of CUDA devices, and this run is on {device}")


@contextmanager
def recorded(folder: Path, is_due: bool) -> Iterator[None]:
    """Record allocations inside the block and write them into `folder`, also if it runs out of memory; else do nothing.

    The file holds what `torch.cuda.memory._snapshot()` returns: segments, blocks, and `device_traces` with a stack for
    every event. torch's own file of it is a pickle, which obverse does not write.
    """
    if not is_due:
        yield
        return
    torch.cuda.memory._record_memory_history(max_entries=MAX_EVENTS)
    try:
        yield
    finally:
        snapshot = torch.cuda.memory._snapshot()
        torch.cuda.memory._record_memory_history(enabled=None)
        (folder / NAME).write_text(json.dumps(snapshot, default=str), encoding="utf-8")
