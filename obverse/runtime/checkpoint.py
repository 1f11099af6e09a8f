"""Checkpoints: a transformers model folder, the optimizer state, the run state, and a manifest of all files.

A save writes every file into a temporary folder and flushes it to disk, writes the manifest with their sha256, renames
the folder, flushes the parent folder, verifies the result, and only then removes older checkpoints. If it is
interrupted at any point, a complete checkpoint remains; `remove_leftovers` deletes incomplete files.

Sharded weights are saved by all ranks together: gathered to the first rank in the same layout, or as one file per rank
(see `distributed/sharded_safetensors.py`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from obverse.distributed import sharded_safetensors
from obverse.distributed.collective_save import (
    MOMENTS,
    SHARDED_MOMENTS,
    is_storage_error,
    on_all_ranks,
    on_first_rank,
    storage_reason,
    write_model,
    write_optimizer,
)
from obverse.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from obverse.distributed.sharded_safetensors import ShardedTensors
from obverse.errors import CheckpointError, StorageError
from obverse.runtime import branches as history
from obverse.runtime.file_writes import sync
from obverse.runtime.manifest import (
    CHECKPOINT_NAME,
    MANIFEST,
    SCHEMA,
    STATE,
    RunInfo,
    find_damage,
    read_manifest,
    sealed_text,
    size_and_sha256,
    step_of,
)
from obverse.runtime.run_dir import RunFolder

NO_RUN_INFO = RunInfo()
_LEFTOVER = re.compile(r"\.((?:checkpoint|initial)-\d+)\.(part|old|gone)")


@dataclass(frozen=True)
class LoadedCheckpoint:
    """An open checkpoint: its folder, the optimizer's tensors and the run's state."""

    path: Path
    tensors: ShardedTensors  # read on access
    state: dict[str, Any]


def save(
    root: Path,
    step: int,
    models: Mapping[str, Any],
    tokenizer: Any,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
    info: RunInfo = NO_RUN_INFO,
    process_group: ProcessGroup = SINGLE_PROCESS,
    in_pieces: bool = False,
) -> Path:
    """Write `root/checkpoint-<step>`, then remove all but the newest `keep` checkpoints of the run; returns its path.

    `models` are by subfolder; "" is the checkpoint itself, which transformers can load. With sharded models all ranks
    of `process_group` call this; with `in_pieces` each rank writes its own shards.
    Raises StorageError if the disk cannot be written; earlier checkpoints are then unchanged.
    """
    target, part = root / f"checkpoint-{step}", root / f".checkpoint-{step}.part"
    with _storing(target, root, process_group):
        on_first_rank(process_group, lambda: _begin(part))
        local_paths: list[Path] = []  # files that this rank has written, unless it is the first
        for name, model in models.items():
            local_paths += write_model(part / name, model, tokenizer, process_group, in_pieces)
        local_paths += write_optimizer(part, tensors, process_group, in_pieces)
        listings = process_group.gather(
            on_all_ranks(process_group, lambda: [] if process_group.is_first else _flush_and_list(part, local_paths))
        )
        on_first_rank(process_group, lambda: _make_way(target, info.run))
        remote_files = {part / name: entry for listing in listings for name, entry in listing}
        on_first_rank(process_group, lambda: _finish(part, target, step, state, info, remote_files))
    if process_group.is_first:
        _rotate(root, step, keep, info.run)
    return target


def _begin(part: Path) -> None:
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)


def _finish(
    part: Path,
    target: Path,
    step: int,
    state: Mapping[str, Any],
    info: RunInfo,
    remote_files: Mapping[Path, Mapping[str, Any]],
) -> None:
    """Write state and manifest, rename the folder and verify it.

    `remote_files` are manifest entries by path of files that other ranks have flushed to disk.
    """
    (part / STATE).write_text(json.dumps({"step": step, **state}, indent=2))
    paths = [path for path in sorted(part.rglob("*")) if path.is_file()]
    local_files = dict(_flush_and_list(part, [path for path in paths if path not in remote_files]))
    files = {name: local_files.get(name) or remote_files[part / name] for name in _names_in(part, paths)}
    (part / MANIFEST).write_text(sealed_text({"schema": SCHEMA, "step": step, **vars(info), "files": files}))
    _rename(part, target)
    if problem := find_damage(target):
        raise OSError(f"what was read back is not what was written: {problem}")


def _make_way(target: Path, run: str) -> None:
    """Move a file or folder with the checkpoint's name aside if it is not a checkpoint of this run."""
    if os.path.lexists(target) and not _is_intact_of(target, run):
        history.move_aside(target.parent, target.name)


def _names_in(part: Path, paths: Sequence[Path]) -> list[str]:
    return [str(path.relative_to(part)) for path in paths]


def _flush_and_list(part: Path, paths: Sequence[Path]) -> list[tuple[str, dict[str, Any]]]:
    """Flush files to disk; returns name and manifest entry of each."""
    entries = [(name, size_and_sha256(part / name)) for name in _names_in(part, paths)]
    for path in paths:
        sync(path)
    return entries


def save_model(folder: Path, model: Any, tokenizer: Any, process_group: ProcessGroup = SINGLE_PROCESS) -> None:
    """Write a model outside of any checkpoint, as a transformers folder; all ranks call this.

    Raises StorageError if the disk cannot be written.
    """
    part = folder.with_name(f".{folder.name}.part")

    def finish() -> None:
        for path in part.rglob("*"):
            sync(path)
        if os.path.lexists(folder):  # a run begins each stage once, so the folder is not of this run
            history.move_aside(folder.parent, folder.name)
        _rename(part, folder)

    with _storing(folder, folder.parent, process_group):
        on_first_rank(process_group, lambda: _begin(part))
        write_model(part, model, tokenizer, process_group)
        on_first_rank(process_group, finish)


@contextmanager
def _storing(target: Path, root: Path, process_group: ProcessGroup) -> Iterator[None]:
    """Remove the leftovers of a failed save; disk errors become a StorageError that names the newest checkpoint."""
    try:
        yield
    except BaseException as error:
        free = shutil.disk_usage(root).free if root.exists() else 0  # before the leftovers are removed
        if root.exists() and process_group.is_first:
            remove_leftovers(root)
        if not is_storage_error(error):
            raise
        last = newest(root)
        rest = f"the last good checkpoint is {last}" if last else "there is no earlier checkpoint"
        raise StorageError(
            f"checkpoint {target} could not be written: {storage_reason(error)} ({free / 1e6:,.1f} MB were free); "
            f"{rest}: make room and resume"
        ) from None


def remove_leftovers(root: Path) -> None:
    """Remove the temporary folders of interrupted saves and rotations; restore a folder that was being replaced."""
    for path in sorted(root.glob(".*-*.*")):
        match = _LEFTOVER.fullmatch(path.name)
        if match and match[2] == "old" and not (root / match[1]).exists():
            os.replace(path, root / match[1])
        elif match:
            shutil.rmtree(path, ignore_errors=True)


def _rename(part: Path, target: Path) -> None:
    """Rename a folder whose files are on disk; an existing target is kept under another name until then."""
    for path in [*(path for path in part.rglob("*") if path.is_dir() or path.name == MANIFEST), part]:
        sync(path)
    aside = target.with_name(f".{target.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if target.exists():
        os.replace(target, aside)
    os.replace(part, target)
    sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _rotate(root: Path, step: int, keep: int, run: str) -> None:
    """Remove the run's older checkpoints; one that cannot be removed is skipped."""
    checkpoints = [path for path in written_by_run(root, run) if step_of(path) <= step]
    for path in checkpoints[:-keep] if keep > 0 else []:
        gone = root / f".{path.name}.gone"  # renamed first: half a folder must not look like a damaged checkpoint
        try:
            os.replace(path, gone)
        except OSError:
            continue
        shutil.rmtree(gone, ignore_errors=True)


def verify(path: Path) -> None:
    """Raise CheckpointError, which names the fault, unless every file matches the manifest."""
    problem = find_damage(path)
    if problem:
        raise _unusable(path, problem)


def load(path: Path, process_group: ProcessGroup = SINGLE_PROCESS) -> LoadedCheckpoint:
    """Open a checkpoint after the first rank has checked every file against the manifest; all ranks call this.

    Raises CheckpointError, which names the fault.
    """
    problem = process_group.broadcast(find_damage(path) if process_group.is_first else None)
    if problem:
        raise _unusable(path, problem)
    moments = [path / MOMENTS] if (path / MOMENTS).exists() else sharded_safetensors.shard_files(path / SHARDED_MOMENTS)
    return LoadedCheckpoint(path, ShardedTensors.of(moments), read_state(path))


def _unusable(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"checkpoint {path}: {problem}; resume from another one or start anew")


def read_state(path: Path) -> dict[str, Any]:
    """The run's state in a verified checkpoint, in the layout of the version that saved it."""
    return dict(json.loads((path / STATE).read_text(encoding="utf-8")))


def newest(root: Path, run: str | None = None) -> Path | None:
    """The newest intact checkpoint under `root` of the run with the id `run` (default: the folder's), or None."""
    return search(root, run)[0]


def search(root: Path, run: str | None = None) -> tuple[Path | None, list[str]]:
    """The result of `newest`, and a sentence for each newer folder that was skipped."""
    run = RunFolder(root).run_id() if run is None else run
    skipped: list[str] = []
    for path in reversed(folders(root)):
        problem = find_damage(path) or ("" if _is_of(path, run) else "it is of another run")
        if not problem:
            return path, skipped
        skipped.append(f"{path} is skipped: {problem}")
    return None, skipped


def folders(root: Path) -> list[Path]:
    """The `checkpoint-N` folders by rising step, without those that a pending move takes out of the run."""
    leaving = history.names_leaving(root)
    names = [p for p in root.glob("checkpoint-*") if CHECKPOINT_NAME.fullmatch(p.name) and p.name not in leaving]
    return sorted(names, key=step_of)


def written_by_run(root: Path, run: str) -> list[Path]:
    """The checkpoints that the run `run` has written under their present names, without additional files.

    Only these folders may be deleted.
    """
    return [path for path in folders(root) if _is_intact_of(path, run)]


def _is_intact_of(path: Path, run: str) -> bool:
    """Whether a folder is a checkpoint of the run under its original name, with no file that is not in the manifest."""
    try:
        manifest = read_manifest(path)
        names = {str(p.relative_to(path)) for p in path.rglob("*") if not p.is_dir() or p.is_symlink()}
    except (CheckpointError, OSError):
        return False
    is_named = path.name == f"checkpoint-{manifest['step']}" and not path.is_symlink()
    return is_named and manifest["run"] in ("", run) and names <= {MANIFEST, *manifest["files"]}


def _is_of(path: Path, run: str) -> bool:
    """Whether a checkpoint's manifest is valid and of that run, or one of them has no id."""
    try:
        return read_manifest(path)["run"] in ("", run) or not run
    except (CheckpointError, OSError):
        return False


def is_written_by(path: Path, run: str) -> bool:
    """Whether the run has written this folder under its present name, and it is neither a copy nor a link."""
    return _is_of(path, run) and not path.is_symlink() and read_manifest(path)["step"] == step_of(path)
