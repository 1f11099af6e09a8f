"""Run folders at a glance: method, model, step, last figures and state, from a few lines of their files. No torch here.

Nothing is locked or changed, so that a run which is being trained is not disturbed.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from obverse.config.yaml_file import parse
from obverse.errors import DamageError, UserError
from obverse.runtime.json_lines import read_bytes, read_object
from obverse.runtime.run_dir import LOCK

MAX_DEPTH = 4  # folders below the given one that are searched
TAIL = 2**16  # bytes at the end of metrics.jsonl that hold its last row
CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,15})")
HOLDER = re.compile(r"process ([0-9]{1,9}) on (\S+)")
OPTIONS = ("method", "model", "dataset", "max_steps", "budget", "budget_in")
USED = {"tokens": "num_tokens", "flops": "flops", "steps": "step"}  # the column of metrics that a budget counts


@dataclass(frozen=True)
class RunSummary:
    """A run folder; a value is None where the folder does not hold it (yet).

    `state` is running, finished, stopped, failed or damaged; `detail` is what can be done, or why. `total` is the
    number of steps, None for a budget and for epochs before the second step. `seconds` is the time since the last step.
    """

    folder: Path
    state: str
    detail: str = ""
    method: str | None = None
    model: str | None = None
    dataset: str | None = None
    step: int | None = None
    total: int | None = None
    reward: float | None = None
    accuracy: float | None = None
    nll: float | None = None
    held_out: float | None = None  # pass@1 of the newest evaluation
    seconds: float | None = None


def find_runs(root: Path) -> list[Path]:
    """The run folders at or below `root`, at most MAX_DEPTH levels deep; folders in a run are not searched."""
    return sorted(_runs_below(root, MAX_DEPTH))


def summarize(folder: Path) -> RunSummary:
    """The summary of a run folder; one that cannot be read is `damaged`, with the reason."""
    try:
        return _summary(folder)
    except UserError as error:
        return RunSummary(folder, "damaged", str(error).splitlines()[0])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return RunSummary(folder, "damaged", f"{type(error).__name__}: {error}")


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            is_folder = {entry.name: entry.is_dir() for entry in entries}
    except OSError:
        return
    if "metrics.jsonl" in is_folder or {"config.yaml", "environment.json"} <= is_folder.keys():
        yield folder
    elif depth:
        for name in (name for name, is_dir in is_folder.items() if is_dir and not name.startswith(".")):
            yield from _runs_below(folder / name, depth - 1)


def _summary(folder: Path) -> RunSummary:
    options = _options(folder / "config.yaml")
    row = last_row(folder / "metrics.jsonl")
    saved = max((int(match[1]) for path in folder.iterdir() if (match := CHECKPOINT.fullmatch(path.name))), default=0)
    step = max(int(row.get("step", 0)), saved)
    checkpoint = read_object(folder / f"checkpoint-{saved}" / "state.json", DamageError) if saved else {}
    total = _total_steps(options, checkpoint)
    is_finished = saved == step > 0 and (step == total or _is_spent(folder, options, row))
    state, detail = _state(folder, is_finished, step, saved)
    newest = max((folder / name for name in ("metrics.jsonl", "config.yaml")), key=_written)
    return RunSummary(
        folder=folder,
        state=state,
        detail=detail,
        method=str(options["method"]),
        model=str(options["model"]),
        dataset=str(options.get("dataset", "")),
        step=step,
        total=total if options.get("budget") is None else None,  # max_steps is only a bound beside a budget
        reward=_number(row, "reward"),
        accuracy=_number(row, "accuracy"),
        nll=_number(row, "nll"),
        held_out=_held_out(folder / "eval"),
        seconds=max(time.time() - _written(newest), 0.0),
    )


def _number(row: Mapping[str, Any], name: str) -> float | None:
    """A finite number of a row, None where it is missing, null or not finite; DamageError for anything else."""
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DamageError(f"{name} is {value!r:.40}, not a number")
    return float(value) if math.isfinite(value) else None


def _written(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def _options(path: Path) -> Mapping[str, Any]:
    """The options in OPTIONS of a stored configuration, which has one line per option; the others are not parsed."""
    lines = read_bytes(path, DamageError).decode("utf-8").splitlines()
    options = parse("\n".join(line for line in lines if line.partition(":")[0] in OPTIONS), str(path)).values
    if missing := [name for name in ("method", "model") if name not in options]:
        raise DamageError(f"{path} has no {missing[0]}")
    return options


def last_row(path: Path) -> dict[str, Any]:
    """The last complete row of metrics.jsonl, {} before the first step; DamageError where it is not an object."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - TAIL, 0))
        lines = file.read().split(b"\n")[:-1]  # what follows the last line feed is being written
    if not lines or not lines[-1].strip():
        return {}
    try:
        row = json.loads(lines[-1])
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise DamageError(f"{path}: its last row is not an object")
    return row


def _total_steps(options: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> int | None:
    """max_steps, or what a checkpoint's progress implies: `before` is (step - 1) / total in a run without a budget."""
    max_steps = options.get("max_steps", -1)
    if isinstance(max_steps, int) and max_steps > 0:
        return max_steps
    step, progress = checkpoint.get("step", 0), checkpoint.get("before", 0.0)
    if options.get("budget") is None and progress and step > 1:
        return round((step - 1) / progress)
    return None


def _is_spent(folder: Path, options: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether the budget is used up."""
    budget, unit = options.get("budget"), str(options.get("budget_in", "tokens"))
    if not isinstance(budget, int | float):
        return False
    if unit in USED:
        return float(row.get(USED[unit]) or 0) >= budget
    lines = (folder / "metrics.jsonl").read_bytes().splitlines()
    return sum(json.loads(line)["step_time"] for line in lines if line.strip()) >= budget


def _state(folder: Path, is_finished: bool, step: int, saved: int) -> tuple[str, str]:
    holder = holder_of(folder / LOCK)
    if holder is not None and is_alive(*holder):
        return "running", f"process {holder[0]} on {holder[1]}"
    if is_finished:
        return "finished", ""
    resumable = f"resumable from step {saved}" if saved else "without a checkpoint"
    if holder is None and saved == step > 0:
        return "stopped", resumable
    return "failed", f"{'killed' if holder else 'ended'} after step {step}, {resumable}"


def holder_of(lock: Path) -> tuple[int, str] | None:
    """Process id and host in a lock file, which is empty once the lock was released."""
    try:
        match = HOLDER.match(lock.read_bytes()[:200].decode("ascii", "replace"))
    except OSError:
        return None
    return (int(match[1]), match[2]) if match else None


def is_alive(process: int, host: str) -> bool:
    """Whether a process runs; True for one on another host, which cannot be looked at."""
    if host != socket.gethostname():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # a process that has ended exists until its parent reads its exit code
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # a system without /proc
        return True


def _held_out(folder: Path) -> float | None:
    """pass@1 over all difficulties of the newest evaluation that the run made."""
    names = sorted(path.name for path in folder.glob("step-*.json")) if folder.is_dir() else []
    if not names:
        return None
    levels = read_object(folder / names[-1], DamageError)
    level = levels.get("all", next(iter(levels.values()), {}))
    return _number(level, "pass@1")
