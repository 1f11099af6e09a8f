"""Saves on a disk that is as large as it is told to be, in a mount namespace of its own: nothing is left mounted.

    unshare --user --map-root-user --mount python tests/reliability/small_disk.py toy|run FOLDER [MODEL PROBLEMS]

FOLDER becomes the disk. Prints a line of JSON per size that was tried: bytes, exit code, the newest whole checkpoint.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reliability import faults, forks

from obverse.runtime import checkpoint
from obverse.training import setup as prepare

PAGE = 4096  # what the file system gives out
RUN: dict[str, Any] = {"save_steps": 1, "resume_from_checkpoint": "auto", "log_completions": True, "report": False}


def mount(folder: Path, option: str, again: bool = False) -> None:
    words = ["mount", "-t", "tmpfs", "-o", f"{'remount,' if again else ''}{option}", "tmpfs", str(folder)]
    subprocess.run(words, check=True, capture_output=True)


def used(folder: Path, unit: str) -> int:
    """Pages, or names, that are taken."""
    column = ["--output=used", "-B", str(PAGE)] if unit == "size" else ["--output=iused"]
    return int(subprocess.run(["df", *column, str(folder)], capture_output=True, text=True).stdout.split()[-1])


def sweep(root: Path, unit: str, attempt: Callable[[], int], stride: int = 1) -> None:
    """One more page (or name) after the other, until the attempt gets through; `size` or `nr_inodes`."""
    limit = used(root, unit)
    while True:
        amount = limit * PAGE if unit == "size" else limit
        mount(root, f"{unit}={amount}", again=True)
        code = attempt()
        newest = checkpoint.newest(root) or Path("none")
        left = [path.name for path in root.glob(".*")]
        print(json.dumps({unit: amount, "code": code, "newest": newest.name, "left": left}), flush=True)
        if code == 0:
            return
        limit += stride


def toy(root: Path) -> None:
    """The smallest checkpoint: its weights have some pages, every other file has one."""
    for unit in ("size", "nr_inodes"):
        mount(root, "size=64m")
        faults.save(root, 1)
        faults.save(root, 2)
        sweep(root, unit, lambda: faults.in_child(lambda: faults.save(root, 3)))
        subprocess.run(["umount", str(root)], check=True)


def run(root: Path, model: str, problems: str) -> None:
    """A run whose third step is to be saved; every try goes on where the one before was refused.

    Another program may fill the disk once a run has begun: what looks for room before the first step is left out.
    """
    prepare.check_disk_space = lambda run: None
    mount(root, "size=64m")

    def go(num_steps: int) -> int:
        job = {"folder": str(root), "model": model, "dataset": problems, "method": "grpo", "limit": 0, "at": 0}
        return int(forks.do(job | {"options": RUN | {"max_steps": num_steps}})["code"])

    assert go(2) == 0
    sweep(root, "size", lambda: go(3), stride=6)


if __name__ == "__main__":
    {"toy": toy, "run": run}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
