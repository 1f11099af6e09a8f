"""Checkpoints: a plain transformers folder, the optimizer's state, and a manifest that proves the rest is whole.

Order of a save: every file into a temporary folder and onto the disk, the manifest with their sha256, one rename, the
folder above onto the disk, a look at what now stands there, and only then the rotation of older ones. Whatever breaks
that off, at whatever place, leaves a whole checkpoint; `tidy` clears away what it left half done.

Weights that are shared out over ranks are saved by all ranks together: gathered to the first one, in the same layout,
or in pieces, a file of each rank beside those of the others (see `dist/pieces.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
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
from obverse.runtime.run_dir import RunFolder

SCHEMA = 2
MANIFEST = "manifest.json"
STATE = "state.json"
Manifest = dict[str, Any]

_NAME = re.compile(r"checkpoint-(0|[1-9]\d*)", re.ASCII)
_LEFTOVER = re.compile(r"\.((?:checkpoint|initial)-\d+)\.(part|old|gone)")


@dataclass(frozen=True)
class RunInfo:
    """What a manifest says of its run beside its files; what a run that is resumed is held against."""

    run: str = ""  # the run's own number; "" in manifests that are older than it
    config: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""  # the fingerprint of the problems
    packages: Mapping[str, Any] = field(default_factory=dict)  # versions, for who reads it
    inputs: Mapping[str, str] = field(default_factory=dict)  # fingerprints by option; none in manifests before them


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint that was read: its folder, the optimizer's tensors and the run's state."""

    path: Path
    tensors: ShardedTensors  # read when they are asked for
    state: dict[str, Any]


def save(
    root: Path,
    step: int,
    models: Mapping[str, Any],
    tokenizer: Any,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
    info: RunInfo = RunInfo(),
    process_group: ProcessGroup = SINGLE_PROCESS,
    in_pieces: bool = False,
) -> Path:
    """Write `root/checkpoint-<step>` and remove all but the newest `keep` of the run's; returns its path.

    `models` by their folder inside; "" is the checkpoint itself, which transformers loads as it is. A `team` whose
    ranks have shares of them calls this in step, and with `in_pieces` each rank writes its own.
    Raises StorageError, with the previous checkpoints untouched, when the disk refuses.
    """
    target, part = root / f"checkpoint-{step}", root / f".checkpoint-{step}.part"
    with _storing(target, root, process_group):
        on_first_rank(process_group, lambda: _begin(part))
        mine: list[Path] = []  # what ranks other than the first have written
        for name, model in models.items():
            mine += write_model(part / name, model, tokenizer, process_group, in_pieces)
        mine += write_optimizer(part, tensors, process_group, in_pieces)
        theirs = process_group.gather(
            on_all_ranks(process_group, lambda: [] if process_group.is_first else _on_disk(part, mine))
        )
        on_first_rank(process_group, lambda: _make_way(target, info.run))
        on_first_rank(
            process_group, lambda: _finish(part, target, step, state, info, [pair for each in theirs for pair in each])
        )
    if process_group.is_first:
        _rotate(root, step, keep, info.run)
    return target


def _begin(part: Path) -> None:
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)


def _finish(
    part: Path, target: Path, step: int, state: Mapping[str, Any], info: RunInfo, theirs: Sequence[Sequence[Any]]
) -> None:
    """Seal what was written; `theirs` has the names and fingerprints of what other ranks have put onto the disk."""
    (part / STATE).write_text(json.dumps({"step": step, **state}, indent=2))
    known = {part / name: each for name, each in theirs}
    paths = [path for path in sorted(part.rglob("*")) if path.is_file()]
    own = dict(_on_disk(part, [path for path in paths if path not in known]))
    files = {str(path.relative_to(part)): own.get(str(path.relative_to(part))) or known[path] for path in paths}
    (part / MANIFEST).write_text(_sealed({"schema": SCHEMA, "step": step, **vars(info), "files": files}))
    _put(part, target)
    if problem := find_damage(target):
        raise OSError(f"what was read back is not what was written: {problem}")


def _make_way(target: Path, run: str) -> None:
    """Move aside what stands under a checkpoint's name and is none of the run: it is not ours to replace."""
    if os.path.lexists(target) and not _is_all_of(target, run):
        history.move_aside(target.parent, target.name)


def _on_disk(part: Path, paths: Sequence[Path]) -> list[tuple[str, dict[str, Any]]]:
    """The names and fingerprints of files, which are on the disk then."""
    found = [(str(path.relative_to(part)), fingerprint(path)) for path in paths]
    for path in paths:
        sync(path)
    return found


def save_model(folder: Path, model: Any, tokenizer: Any, process_group: ProcessGroup = SINGLE_PROCESS) -> None:
    """Write a model that is in no checkpoint, as a plain transformers folder; StorageError when the disk refuses.

    All ranks of a `team` call this in step.
    """
    part = folder.with_name(f".{folder.name}.part")

    def finish() -> None:
        for path in part.rglob("*"):
            sync(path)
        if os.path.lexists(folder):  # no run begins a stage twice: it is none of this run's
            history.move_aside(folder.parent, folder.name)
        _put(part, folder)

    with _storing(folder, folder.parent, process_group):
        on_first_rank(process_group, lambda: _begin(part))
        write_model(part, model, tokenizer, process_group)
        on_first_rank(process_group, finish)


@contextmanager
def _storing(target: Path, root: Path, process_group: ProcessGroup) -> Iterator[None]:
    """Clear away what a broken save leaves; a disk that refuses is a StorageError which says what is still there."""
    try:
        yield
    except BaseException as error:
        free = shutil.disk_usage(root).free if root.exists() else 0  # before what was written goes
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
    """Remove what saves and rotations that were broken off left behind; one moved aside gets its place back."""
    for path in sorted(root.glob(".*-*.*")):
        found = _LEFTOVER.fullmatch(path.name)
        if found and found[2] == "old" and not (root / found[1]).exists():
            os.replace(path, root / found[1])
        elif found:
            shutil.rmtree(path, ignore_errors=True)


def _put(part: Path, target: Path) -> None:
    """Give a folder whose files are on the disk its name; one that has the name already is aside until then."""
    for path in [*(each for each in part.rglob("*") if each.is_dir() or each.name == MANIFEST), part]:
        sync(path)
    aside = target.with_name(f".{target.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if target.exists():
        os.replace(target, aside)
    os.replace(part, target)
    sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _rotate(root: Path, step: int, keep: int, run: str) -> None:
    """Remove the run's older checkpoints; one that cannot go stays, for that is no reason to end a run."""
    ours = [path for path in written_by_run(root, run) if step_of(path) <= step]
    for old in ours[:-keep] if keep > 0 else []:
        gone = root / f".{old.name}.gone"  # in one step: half a folder must not look like a damaged checkpoint
        try:
            os.replace(old, gone)
        except OSError:
            continue
        shutil.rmtree(gone, ignore_errors=True)


def verify(path: Path) -> None:
    """Raise CheckpointError, which names what is wrong, unless every file is as the manifest says."""
    problem = find_damage(path)
    if problem:
        raise _unusable(path, problem)


def load(path: Path, process_group: ProcessGroup = SINGLE_PROCESS) -> LoadedCheckpoint:
    """Open a checkpoint after checking every file against the manifest; CheckpointError names what is wrong.

    All ranks of a `team` call this in step: the first one checks.
    """
    problem = process_group.broadcast(find_damage(path) if process_group.is_first else None)
    if problem:
        raise _unusable(path, problem)
    moments = [path / MOMENTS] if (path / MOMENTS).exists() else sharded_safetensors.shard_files(path / SHARDED_MOMENTS)
    return LoadedCheckpoint(path, ShardedTensors.of(moments), read_state(path))


def _unusable(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"checkpoint {path}: {problem}; resume from another one or start anew")


def run_info(path: Path) -> RunInfo:
    """What the manifest of a checkpoint says of its run; CheckpointError where there is none."""
    manifest = {"inputs": {}, **_manifest(path)}
    return RunInfo(**{name: manifest[name] for name in vars(RunInfo())})


def read_state(path: Path) -> dict[str, Any]:
    """What a checkpoint that was checked says of the run's state, as the version that saved it wrote it down."""
    return dict(json.loads((path / STATE).read_text(encoding="utf-8")))


def newest(root: Path, run: str | None = None) -> Path | None:
    """The newest checkpoint under `root` whose manifest holds, or None; only those of `run`, or of the folder's own."""
    return search(root, run)[0]


def search(root: Path, run: str | None = None) -> tuple[Path | None, list[str]]:
    """As `newest`, and why each newer folder is none: a sentence for every one that was passed by."""
    run = RunFolder(root).run() if run is None else run
    passed: list[str] = []
    for path in reversed(folders(root)):
        problem = find_damage(path) or ("" if _is_of(path, run) else "it is of another run")
        if not problem:
            return path, passed
        passed.append(f"{path} is passed by: {problem}")
    return None, passed


def folders(root: Path) -> list[Path]:
    """`checkpoint-N` folders by rising step; those that leave the run's line of history are none of them."""
    leaving = history.names_leaving(root)
    names = [path for path in root.glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.name not in leaving]
    return sorted(names, key=step_of)


def written_by_run(root: Path, run: str) -> list[Path]:
    """The checkpoints that a run has written itself, under these very names, with nothing of others in them.

    These, and no other folder whatever its name, may be removed by who asks with the number of the run.
    """
    return [path for path in folders(root) if _is_all_of(path, run)]


def _is_all_of(path: Path, run: str) -> bool:
    try:
        manifest = _manifest(path)
        names = {str(each.relative_to(path)) for each in path.rglob("*") if not each.is_dir() or each.is_symlink()}
    except (CheckpointError, OSError):
        return False
    is_named = path.name == f"checkpoint-{manifest['step']}" and not path.is_symlink()
    return is_named and manifest["run"] in ("", run) and names <= {MANIFEST, *manifest["files"]}


def step_of(path: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(path.name.removeprefix("checkpoint-"))


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        manifest = _manifest(path)
        if _NAME.fullmatch(path.name) and manifest["step"] != step_of(path):
            return f"{MANIFEST} is of step {manifest['step']}: it belongs to another folder"
        files = manifest["files"]
        for name, expected in files.items():
            file = path / name
            if not file.is_file():
                return f"file {name} is missing"
            num_bytes = file.stat().st_size
            if num_bytes != expected["bytes"]:
                return f"file {name} is truncated or grown (has {num_bytes}, manifest {expected['bytes']} bytes)"
            if fingerprint(file)["sha256"] != expected["sha256"]:
                return f"file {name} was changed (its sha256 is not the manifest's)"
    except CheckpointError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or path} cannot be read: {error.strerror}"
    return None


def _is_of(path: Path, run: str) -> bool:
    """Whether a checkpoint's manifest can be read and is of that run, or one of them has no number."""
    try:
        return _manifest(path)["run"] in ("", run) or not run
    except (CheckpointError, OSError):
        return False


def is_written_by(path: Path, run: str) -> bool:
    """Whether the folder of this name is one that the run has written, and no copy or link, whatever became of it."""
    return _is_of(path, run) and not path.is_symlink() and _manifest(path)["step"] == step_of(path)


def _manifest(path: Path) -> Manifest:
    """The manifest of a checkpoint in today's layout; CheckpointError where it is none."""
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        manifest = json.loads(text)
    except FileNotFoundError:
        raise CheckpointError(
            f"it has no {MANIFEST}: the save did not finish, or this is no checkpoint of obverse"
        ) from None
    except (ValueError, RecursionError):  # no JSON, no UTF-8
        raise CheckpointError(f"{MANIFEST} is not JSON") from None
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{MANIFEST} is not an object")
    schema = manifest.get("schema")
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise CheckpointError(f"it has schema {schema!r:.40}, this version reads 1 to {SCHEMA}")
    if schema > 1 and text != _sealed({name: value for name, value in manifest.items() if name != "seal"}):
        raise CheckpointError(f"{MANIFEST} was changed (its seal is not that of its text)")
    while manifest["schema"] < SCHEMA:
        manifest = MIGRATIONS[manifest["schema"]](manifest)
    if reason := _misfit(manifest):
        raise CheckpointError(f"{MANIFEST} {reason}")
    return manifest


def _sealed(manifest: Manifest) -> str:
    """A manifest as text, which ends in the sha256 of the rest."""
    seal = hashlib.sha256(json.dumps(manifest, indent=2).encode()).hexdigest()
    return json.dumps({**manifest, "seal": seal}, indent=2)


def _misfit(manifest: Manifest) -> str | None:
    """Why this cannot be a manifest, whoever wrote it."""
    files = manifest.get("files")
    if not isinstance(files, dict) or STATE not in files or not any(map(_has_moments, files)):
        return f"does not list {STATE} and {MOMENTS}"
    for name, expected in files.items():
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or "\0" in name:
            return f"lists {name!a:.80}, which is not inside"
        if not isinstance(expected, dict) or not {"bytes", "sha256"} <= expected.keys():
            return f"has no size and sha256 of {name!a:.80}"
    kinds = {"step": int, "run": str, "config": dict, "data": str, "packages": dict}
    inputs = manifest.get("inputs", {})
    if not isinstance(inputs, dict) or not all(isinstance(each, str) for each in inputs.values()):
        return "has inputs that are no fingerprints"
    return next((f"has no {name}" for name, kind in kinds.items() if not isinstance(manifest.get(name), kind)), None)


def _has_moments(name: str) -> bool:
    return name == MOMENTS or name.startswith(f"{SHARDED_MOMENTS}/")


def _from_1(manifest: Manifest) -> Manifest:
    """Schema 1 had no run number, no configuration and no seal: what it does not say is not compared."""
    return {**manifest, "schema": 2, "run": "", "config": {}, "data": "", "packages": {}}


# From each older schema to the next one. Checkpoints of every schema stand in tests/data/checkpoints.
MIGRATIONS: dict[int, Callable[[Manifest], Manifest]] = {1: _from_1}


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
