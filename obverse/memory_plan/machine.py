"""How much memory there is: of the card, or what this process may use of the machine's."""

from __future__ import annotations

import os
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup/memory.max")  # what a container may use; "max" where nobody set a limit


def total(device: str) -> int | None:
    """Bytes on the device; None where there is no such device here to ask."""
    if device != "cpu":
        if not device.startswith("cuda") or not torch.cuda.is_available():
            return None
        return int(torch.cuda.get_device_properties(torch.device(device)).total_memory)
    if not hasattr(os, "sysconf"):
        return None
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = CGROUP.read_text().strip() if CGROUP.is_file() else ""
    return min(memory, int(limit)) if limit.isdigit() else memory


def resident() -> int:
    """Bytes of memory that this process holds now: Python and its libraries. 0 where the system does not say."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.is_file() else 0
