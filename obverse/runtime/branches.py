"""A run folder holds one line of history: files of steps that a run abandons are moved to `set_aside/branch-N`.

A move consists of many renames. One file, written atomically, records it first: from then on readers ignore the files
to be moved, and the next start in the folder completes an interrupted move. Branches are never removed. The unsaved
steps of a killed run are repeated by the same run: `set_aside/unsaved` holds their files, of the last time only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from obverse.errors import StorageError
from obverse.runtime.file_writes import sync

FOLDER = "set_aside"
PENDING = "pending.json"  # in FOLDER during a move; afterwards it becomes the RECORD of the branch
RECORD = "branch.json"
METRICS = "metrics.jsonl"
UNSAVED = "unsaved"
COPIED = ("config.yaml", "environment.json")  # into the branch
WITH_STEPS = (
    (".", re.compile(r"checkpoint-(\d+)", re.ASCII)),
    ("samples", re.compile(r"step-(\d+)\.jsonl", re.ASCII)),
    ("eval", re.compile(r"step-(\d+)\.json", re.ASCII)),
    ("eval", re.compile(r"checkpoint-(\d+)", re.ASCII)),  # written by `obverse eval`
)
OF_ALL_STEPS = ("report.html", "trial.json")  # they describe all steps
OF_ALL_CHECKPOINTS = ("analysis",)
_BRANCH = re.compile(r"branch-(\d+)", re.ASCII)
_INITIAL = re.compile(r"initial-(\d+)", re.ASCII)


@dataclass(frozen=True)
class PendingMove:
    """A move out of the line of history: names in the run folder, and the rows of metrics.jsonl after `num_bytes`."""

    branch: str
    step: int  # the last step that stays
    num_bytes: int
    names: tuple[str, ...]


def pending_move(root: Path) -> PendingMove | None:
    """The interrupted move in a run folder, or None."""
    try:
        record = json.loads((root / FOLDER / PENDING).read_text(encoding="utf-8"))
        return PendingMove(record["branch"], record["step"], record["num_bytes"], tuple(record["names"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise StorageError(
            f"{root / FOLDER / PENDING} cannot be read ({error}): it lists the files being moved to {FOLDER}: "
            "restore it"
        ) from None


def names_leaving(root: Path) -> frozenset[str]:
    """Names in `root` that an interrupted move takes out of the run."""
    move = pending_move(root)
    return frozenset(move.names if move else ())


def names_after(root: Path, step: int, stage: int) -> tuple[str, ...]:
    """The names in a run folder that belong to steps after `step`, including initial models of later stages.

    An analysis of all checkpoints is included if a checkpoint is.
    """
    names = [
        os.path.normpath(os.path.join(folder, name))
        for folder, pattern in WITH_STEPS
        for name in _names(root / folder)
        if (match := pattern.fullmatch(name)) and int(match[1]) > step
    ]
    names += [name for name in _names(root) if (match := _INITIAL.fullmatch(name)) and int(match[1]) > stage]
    names += [name for name in OF_ALL_CHECKPOINTS if (root / name).exists() and any("checkpoint" in n for n in names)]
    return tuple(names)


def set_aside(root: Path, step: int, num_bytes: int, names: Iterable[str], repeats: bool = False) -> Path | None:
    """Move names and later metrics rows out of the line of history; returns their new folder, None if nothing moves.

    `num_bytes` is the size of metrics.jsonl at the step. `repeats`: the run takes the same steps again, and none of
    them was saved. Raises StorageError; the next call of `finish_move` then continues.
    """
    moved, metrics = list(names), root / METRICS
    if not moved and (not metrics.exists() or metrics.stat().st_size <= num_bytes):
        return None
    moved += [name for name in OF_ALL_STEPS if (root / name).exists() and not repeats]
    aside = root / FOLDER
    try:
        aside.mkdir(exist_ok=True)
        _refuse_other_file_systems(root, moved)
        if repeats:
            _remove_unsaved(aside)
        move = PendingMove(UNSAVED if repeats else _next_branch(aside), step, num_bytes, tuple(dict.fromkeys(moved)))
        _write(aside / PENDING, (json.dumps(asdict(move), indent=2) + "\n").encode())
    except OSError as error:
        raise _storage_error(root, error) from None
    return finish_move(root)


def finish_move(root: Path) -> Path | None:
    """Complete a pending move; returns the branch's folder, None if no move is pending."""
    move = pending_move(root)
    if move is None:
        return None
    branch = root / FOLDER / move.branch
    try:
        branch.mkdir(exist_ok=True)
        for name in move.names:
            source, target = root / name, branch / name
            if not os.path.lexists(source):
                continue
            if os.path.lexists(target):
                raise StorageError(f"{source} is to be moved to {target}, which exists already: move one of them away")
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(source, target)
        for name in COPIED:
            if move.branch != UNSAVED and (root / name).is_file():
                _write(branch / name, (root / name).read_bytes())
        _cut_rows(root / METRICS, branch / METRICS, move.num_bytes)
        for folder in {(root / name).parent for name in move.names} | {branch, root}:
            sync(folder)
        os.replace(root / FOLDER / PENDING, branch / RECORD)
        sync(root / FOLDER)
    except OSError as error:
        raise _storage_error(root, error) from None
    return branch


def num_abandoned(root: Path) -> int:
    """The number of branches in a run folder with steps of training that the run did not continue from or repeat."""
    aside = root / FOLDER
    return sum(_BRANCH.fullmatch(name) is not None and (aside / name / METRICS).exists() for name in _names(aside))


def move_aside(root: Path, name: str) -> Path:
    """Move a file or folder that is not of this run out of the way of a write; returns its new path."""
    aside = root / FOLDER
    aside.mkdir(exist_ok=True)
    branch = aside / _next_branch(aside)
    branch.mkdir()
    os.rename(root / name, branch / name)
    return branch / name


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _next_branch(aside: Path) -> str:
    """The next unused name of a branch."""
    taken = [int(match[1]) for name in _names(aside) if (match := _BRANCH.fullmatch(name))]
    return f"branch-{max(taken, default=0) + 1}"


def _remove_unsaved(aside: Path) -> None:
    """Remove the unsaved steps of the previous time; renamed first, so that a reader sees all files or none."""
    gone = aside / f".{UNSAVED}.gone"
    shutil.rmtree(gone, ignore_errors=True)
    if (aside / UNSAVED).is_dir():
        os.rename(aside / UNSAVED, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _cut_rows(rows: Path, target: Path, num_bytes: int) -> None:
    """Move the rows after `num_bytes` into another file: they are written there before they are removed here."""
    if not rows.exists() or rows.stat().st_size <= num_bytes:
        return
    if num_bytes == 0:
        os.rename(rows, target)
        return
    with rows.open("rb") as file:
        file.seek(num_bytes)
        _write(target, file.read())
    os.truncate(rows, num_bytes)
    sync(rows)


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically and flush it to disk."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        sync(part)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync(path.parent)


def _refuse_other_file_systems(root: Path, names: Iterable[str]) -> None:
    """Raise OSError if a folder inside is a link to another file system, where a rename is impossible."""
    device = root.stat().st_dev
    for folder in {(root / name).parent for name in names}:
        if folder.stat().st_dev != device:
            raise OSError(0, "it is on another file system", str(folder))


def _storage_error(root: Path, error: OSError) -> StorageError:
    return StorageError(
        f"later files than the checkpoint in {root} cannot be moved to {root / FOLDER}: {error.filename or root}: "
        f"{error.strerror}; nothing is lost: fix this and start again, or give another --output_dir"
    )
