"""Checkpoints: a plain transformers folder, the optimizer's state, and a manifest that proves the rest is whole.

Order of a save: everything into a temporary folder, the manifest with the sha256 of every file last, one rename, and
only then the rotation of older ones. Whatever is interrupted leaves the previous checkpoint as it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from obverse.errors import CheckpointError, StorageError

SCHEMA = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read: its folder, the optimizer's tensors and the run's state."""

    path: Path
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save(
    root: Path,
    step: int,
    models: Mapping[str, Any],
    tokenizer: Any,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write `root/checkpoint-<step>` and remove all but the newest `keep`; returns its path.

    `models` by their folder inside; "" is the checkpoint itself, which transformers loads as it is.
    Raises StorageError, with the previous checkpoints untouched, when the disk refuses.
    """
    target, part = root / f"checkpoint-{step}", root / f".checkpoint-{step}.part"
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, model in models.items():
            model.save_pretrained(part / name)
            tokenizer.save_pretrained(part / name)  # a folder of a model is whole: some families load no other
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part / "optimizer.safetensors")
        (part / "state.json").write_text(json.dumps({"step": step, **state}, indent=2))
        files = {str(path.relative_to(part)): fingerprint(path) for path in sorted(part.rglob("*")) if path.is_file()}
        (part / MANIFEST).write_text(json.dumps({"schema": SCHEMA, "step": step, "files": files}, indent=2))
        _put(part, target)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        last = newest(root)
        rest = f"the last good checkpoint is {last}" if last else "there is no earlier checkpoint"
        raise StorageError(f"checkpoint {target} could not be written: {error.strerror or error}; {rest}") from None
    for old in folders(root)[:-keep] if keep > 0 else []:
        shutil.rmtree(old)
    return target


def save_model(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write a model that is in no checkpoint, as a plain transformers folder; StorageError when the disk refuses."""
    part = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        _put(part, folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise StorageError(f"{folder} could not be written: {error.strerror or error}") from None


def check(path: Path) -> None:
    """Raise CheckpointError, which names what is wrong, unless every file is as the manifest says."""
    problem = damage(path)
    if problem:
        raise CheckpointError(f"checkpoint {path}: {problem}; resume from another one or start anew")


def load(path: Path) -> Saved:
    """Read a checkpoint after checking every file against the manifest; CheckpointError names what is wrong."""
    check(path)
    state = json.loads((path / "state.json").read_text())
    return Saved(path, load_file(path / "optimizer.safetensors"), state)


def newest(root: Path) -> Path | None:
    """The newest checkpoint under `root` whose manifest holds, or None."""
    return next((path for path in reversed(folders(root)) if damage(path) is None), None)


def folders(root: Path) -> list[Path]:
    """`checkpoint-N` folders by rising step."""
    found = [path for path in root.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except FileNotFoundError:
        return f"it has no {MANIFEST}: the save did not finish, or this is no checkpoint of obverse"
    except json.JSONDecodeError:
        return f"{MANIFEST} is not JSON"
    if manifest.get("schema") != SCHEMA:
        return f"it has schema {manifest.get('schema')}, this version reads {SCHEMA}"
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.is_file():
            return f"file {name} is missing"
        if file.stat().st_size != expected["bytes"]:
            return f"file {name} is truncated or grown (has {file.stat().st_size}, manifest {expected['bytes']} bytes)"
        if fingerprint(file)["sha256"] != expected["sha256"]:
            return f"file {name} was changed (its sha256 is not the manifest's)"
    return None


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _put(part: Path, target: Path) -> None:
    """Give a whole folder its name, once it is safe on the disk."""
    for path in [*part.rglob("*"), part]:
        sync(path)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(part, target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Force a file or a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
