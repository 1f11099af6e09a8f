"""The memory of a device, of the machine, and of this process."""

from __future__ import annotations

import os
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup/memory.max")  # the memory limit of a container, or "max"


def total(device: str) -> int | None:
    """Bytes of memory of a device; None for a device that this machine does not have."""
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
    """Resident bytes of this process: Python and its libraries; 0 where the system does not report them."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.is_file() else 0
