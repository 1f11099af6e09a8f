"""Saves of a toy checkpoint in a process that dies, or whose disk fills, at a chosen call of the system."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from obverse.distributed import collective_save as saving
from obverse.runtime import checkpoint
from obverse.runtime.manifest import RunInfo

Fault = Literal["kill", "full", "none"]
WRITES = os.O_WRONLY | os.O_RDWR
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
# What Python tells of before it does it; syncs and the writer of safetensors are none of these, and wrapped.
CALLS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}


class Toy:
    """A model and a tokenizer in one, as far as a save asks for them."""

    def __init__(self, value: float) -> None:
        self.value = value

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        saving.save_file({"weight": torch.full((4, 4), self.value)}, folder / "model.safetensors")
        (folder / "config.json").write_text('{"model_type": "toy"}')


class Words:
    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


def save(root: Path, step: int, keep: int = 2, run: str = "mine") -> Path:
    """A checkpoint whose every number is its step."""
    models = {"": Toy(step), "critic": Toy(-step)}
    tensors = {"lane-0/weight/exp_avg": torch.full((4, 4), float(step))}
    state = {"cursor": step, "optimizers": {"lane-0": {"num_steps": step, "num_bad": 0}}}
    return checkpoint.save(root, step, models, Words(), tensors, state, keep, RunInfo(run, {"seed": 1}, "rows", {}))


def number_in(path: Path) -> int:
    """The step that a whole checkpoint holds, in its state and in its moments."""
    saved = checkpoint.load(path)
    (moment,) = saved.tensors.values()
    assert saved.state["step"] == saved.state["cursor"] == int(moment[0, 0])
    return int(saved.state["step"])


class Breaker:
    """Counts the calls that write; number `at` kills the process, or from that one on none finds room."""

    def __init__(self, fault: Fault, at: int) -> None:
        self.fault, self.at, self.num_calls = fault, at, 0

    def note(self, removes: bool = False) -> None:
        self.num_calls += 1
        if self.fault == "kill" and self.num_calls == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "full" and self.num_calls >= self.at and not removes:
            raise FULL

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(args[2], int) and args[2] & WRITES
        if event in CALLS or writes:
            self.note(removes=event in ("os.remove", "os.rmdir", "os.rename"))

    def install(self) -> None:
        """For good: only a process of its own may do so."""
        sync, write = os.fsync, save_file

        def noted(call: Callable[..., None]) -> Callable[..., None]:
            def noted_call(*args: Any) -> None:
                self.note()
                call(*args)

            return noted_call

        os.fsync = noted(sync)
        saving.save_file = noted(write)
        sys.addaudithook(self.hear)


def in_child(work: Callable[[], object], fault: Fault = "none", at: int = 0, tell: int | None = None) -> int:
    """Do `work` in a process of its own with a fault; its exit code, negative for a signal.

    The number of calls that write goes to the pipe's end `tell`. A StorageError is its exit code 6.
    """
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            breaker = Breaker(fault, at)
            breaker.install()
            work()
            code = 0
        except checkpoint.StorageError as error:
            code = error.exit_code
        finally:
            if tell is not None:
                os.write(tell, str(breaker.num_calls).encode())
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def num_calls(work: Callable[[], object]) -> int:
    """How many calls that write `work` makes."""
    read, write = os.pipe()
    assert in_child(work, tell=write) == 0
    told = os.read(read, 20)
    os.close(read)
    os.close(write)
    return int(told)
