"""A run folder holds one line of history: whatever a run does not go on from is moved to `set_aside/branch-N`.

A move is many renames. One file, written in one step, records it first: from then on readers pass by what is to be
moved, and the next start in the folder finishes a move that was broken off. No branch is ever removed. The steps that a
killed run had not saved are taken again by the same run: of them `set_aside/unsaved` keeps those of the last time.
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
PENDING = "pending.json"  # in that folder, while a move is going on; then it is the branch's own record
RECORD = "branch.json"
METRICS = "metrics.jsonl"
UNSAVED = "unsaved"
COPIED = ("config.yaml", "environment.json")  # of the branch as it was left
WITH_STEPS = (
    (".", re.compile(r"checkpoint-(\d+)", re.ASCII)),
    ("samples", re.compile(r"step-(\d+)\.jsonl", re.ASCII)),
    ("eval", re.compile(r"step-(\d+)\.json", re.ASCII)),
    ("eval", re.compile(r"checkpoint-(\d+)", re.ASCII)),  # what `obverse eval` keeps of a checkpoint
)
OF_ALL_STEPS = ("report.html", "trial.json")  # they tell of every step
OF_ALL_CHECKPOINTS = ("analysis",)
_BRANCH = re.compile(r"branch-(\d+)", re.ASCII)
_INITIAL = re.compile(r"initial-(\d+)", re.ASCII)


@dataclass(frozen=True)
class PendingMove:
    """What leaves the line of history: names in the run folder, and the rows of metrics.jsonl after `num_bytes`."""

    branch: str
    step: int  # the last step that stays
    num_bytes: int
    names: tuple[str, ...]


def pending_move(root: Path) -> PendingMove | None:
    """The move that was begun in a run folder and not finished."""
    try:
        kept = json.loads((root / FOLDER / PENDING).read_text(encoding="utf-8"))
        return PendingMove(kept["branch"], kept["step"], kept["num_bytes"], tuple(kept["names"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise StorageError(
            f"{root / FOLDER / PENDING} cannot be read ({error}): it names what was being moved to {FOLDER}: put the "
            "file back as it was"
        ) from None


def names_leaving(root: Path) -> frozenset[str]:
    """Names that no longer belong to the run in `root` although a move that was broken off has left them there."""
    move = pending_move(root)
    return frozenset(move.names if move else ())


def names_after(root: Path, step: int, stage: int) -> tuple[str, ...]:
    """The names in a run folder that come after a step, initial models of later lanes among them.

    What tells of all steps, such as a report, is one of them where anything else is.
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
    """Move names and later rows out of the line of history; where they are then, None where there is nothing to move.

    `num_bytes` is the size of metrics.jsonl at the step. `repeats`: the run takes the same steps again, and none of
    them was saved. Raises StorageError; the next call of `finish` goes on then.
    """
    moved, rows = list(names), root / METRICS
    if not moved and (not rows.exists() or rows.stat().st_size <= num_bytes):
        return None
    moved += [name for name in OF_ALL_STEPS if (root / name).exists() and not repeats]
    home = root / FOLDER
    try:
        home.mkdir(exist_ok=True)
        _refuse_other_disks(root, moved)
        if repeats:
            _remove_unsaved(home)
        move = PendingMove(UNSAVED if repeats else _free(home), step, num_bytes, tuple(dict.fromkeys(moved)))
        _write(home / PENDING, (json.dumps(asdict(move), indent=2) + "\n").encode())
    except OSError as error:
        raise _refusal(root, error) from None
    return finish_move(root)


def finish_move(root: Path) -> Path | None:
    """Do what is left of a move; the branch's folder, None where no move is pending."""
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
                raise StorageError(
                    f"{source} is to be moved to {target}, which is there already: move one of them away"
                )
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
        raise _refusal(root, error) from None
    return branch


def move_aside(root: Path, name: str) -> Path:
    """Move one name that another run or a user has put where this run is about to write; its new path."""
    home = root / FOLDER
    home.mkdir(exist_ok=True)
    branch = home / _free(home)
    branch.mkdir()
    os.rename(root / name, branch / name)
    return branch / name


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _free(home: Path) -> str:
    """The next name of a branch."""
    taken = [int(match[1]) for name in _names(home) if (match := _BRANCH.fullmatch(name))]
    return f"branch-{max(taken, default=0) + 1}"


def _remove_unsaved(home: Path) -> None:
    """Remove the unsaved steps of the time before, in one step for whoever looks."""
    gone = home / f".{UNSAVED}.gone"
    shutil.rmtree(gone, ignore_errors=True)
    if (home / UNSAVED).is_dir():
        os.rename(home / UNSAVED, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _cut_rows(rows: Path, target: Path, num_bytes: int) -> None:
    """Move the rows after `num_bytes` into a file of their own: first they are there, then they leave here."""
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
    """A whole file at once, on the disk."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        sync(part)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync(path.parent)


def _refuse_other_disks(root: Path, names: Iterable[str]) -> None:
    """Raise OSError before anything moves where a folder inside is a link to another file system."""
    device = root.stat().st_dev
    for folder in {(root / name).parent for name in names}:
        if folder.stat().st_dev != device:
            raise OSError(0, "it is on another file system", str(folder))


def _refusal(root: Path, error: OSError) -> StorageError:
    return StorageError(
        f"what {root} holds beyond the checkpoint cannot be moved to {root / FOLDER}: {error.filename or root}: "
        f"{error.strerror}; nothing is lost: mend that and start again, or give another --output_dir"
    )
