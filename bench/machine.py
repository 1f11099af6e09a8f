"""The machine of a measurement."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch


def describe(device: str) -> dict[str, Any]:
    """The processor, its load, the GPU if there is one, and the commit of obverse."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    description = {
        "cpu": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
        "device": device,
    }
    if device.startswith("cuda"):
        description["card"] = torch.cuda.get_device_name()
    return description


def commit() -> str:
    """The commit that is measured, with a plus where files differ from it."""
    git = lambda *words: subprocess.run(["git", *words], capture_output=True, text=True).stdout.strip()  # noqa: E731
    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "obverse") else "")


def facts(model: Any, versions: dict[str, str]) -> dict[str, Any]:
    """Facts about a worker: versions, threads, model size."""
    return {
        "versions": versions | {"torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
