"""The manifest of a checkpoint: its layout, its verification, and its migration from older schemas.

`manifest.json` lists every file of the checkpoint with size and sha256, describes the run, and ends with a seal, the
sha256 of its own text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from obverse.distributed.collective_save import MOMENTS, SHARDED_MOMENTS
from obverse.errors import CheckpointError

SCHEMA = 2
MANIFEST = "manifest.json"
STATE = "state.json"
CHECKPOINT_NAME = re.compile(r"checkpoint-(0|[1-9]\d*)", re.ASCII)
Manifest = dict[str, Any]


@dataclass(frozen=True)
class RunInfo:
    """The description of the run in a manifest; a resumed run is compared with it."""

    run: str = ""  # the run's id; "" in manifests written before runs had one
    config: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""  # the fingerprint of the problems
    packages: Mapping[str, Any] = field(default_factory=dict)  # versions of packages, for information
    inputs: Mapping[str, str] = field(default_factory=dict)  # fingerprints by option; {} in older manifests


def run_info(path: Path) -> RunInfo:
    """The description of the run in a checkpoint's manifest. Raises CheckpointError for an invalid manifest."""
    manifest = {"inputs": {}, **read_manifest(path)}
    return RunInfo(**{name: manifest[name] for name in vars(RunInfo())})


def step_of(path: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(path.name.removeprefix("checkpoint-"))


def find_damage(path: Path) -> str | None:
    """A description of the first fault of a checkpoint folder; None if every file matches the manifest."""
    try:
        manifest = read_manifest(path)
        if CHECKPOINT_NAME.fullmatch(path.name) and manifest["step"] != step_of(path):
            return f"{MANIFEST} is of step {manifest['step']}: it belongs to another folder"
        files = manifest["files"]
        for name, expected in files.items():
            file = path / name
            if not file.is_file():
                return f"file {name} is missing"
            num_bytes = file.stat().st_size
            if num_bytes != expected["bytes"]:
                return f"file {name} is truncated or grown (has {num_bytes}, manifest {expected['bytes']} bytes)"
            if size_and_sha256(file)["sha256"] != expected["sha256"]:
                return f"file {name} was changed (its sha256 is not the manifest's)"
    except CheckpointError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or path} cannot be read: {error.strerror}"
    return None


def read_manifest(path: Path) -> Manifest:
    """The manifest of a checkpoint folder, migrated to the current schema. Raises CheckpointError if it is invalid."""
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        manifest = json.loads(text)
    except FileNotFoundError:
        raise CheckpointError(
            f"it has no {MANIFEST}: the save did not finish, or this is no checkpoint of obverse"
        ) from None
    except (ValueError, RecursionError):  # invalid JSON or UTF-8
        raise CheckpointError(f"{MANIFEST} is not JSON") from None
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{MANIFEST} is not an object")
    schema = manifest.get("schema")
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise CheckpointError(f"it has schema {schema!r:.40}, this version reads 1 to {SCHEMA}")
    if schema > 1 and text != sealed_text({name: value for name, value in manifest.items() if name != "seal"}):
        raise CheckpointError(f"{MANIFEST} was changed (its seal is not that of its text)")
    while manifest["schema"] < SCHEMA:
        manifest = MIGRATIONS[manifest["schema"]](manifest)
    if reason := _invalid_reason(manifest):
        raise CheckpointError(f"{MANIFEST} {reason}")
    return manifest


def sealed_text(manifest: Manifest) -> str:
    """The JSON text of a manifest, whose last key `seal` is the sha256 of the text without it."""
    seal = hashlib.sha256(json.dumps(manifest, indent=2).encode()).hexdigest()
    return json.dumps({**manifest, "seal": seal}, indent=2)


def _invalid_reason(manifest: Manifest) -> str | None:
    """What an invalid manifest lacks, as the end of a sentence; None for a valid one."""
    files = manifest.get("files")
    if not isinstance(files, dict) or STATE not in files or not any(map(_has_moments, files)):
        return f"does not list {STATE} and {MOMENTS}"
    for name, expected in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            return f"lists {name!a:.80}, which is not inside"
        if not isinstance(expected, dict) or not {"bytes", "sha256"} <= expected.keys():
            return f"has no size and sha256 of {name!a:.80}"
    kinds = {"step": int, "run": str, "config": dict, "data": str, "packages": dict}
    inputs = manifest.get("inputs", {})
    if not isinstance(inputs, dict) or not all(isinstance(digest, str) for digest in inputs.values()):
        return "has inputs that are no fingerprints"
    return next((f"has no {name}" for name, kind in kinds.items() if not isinstance(manifest.get(name), kind)), None)


def _has_moments(name: str) -> bool:
    return name == MOMENTS or name.startswith(f"{SHARDED_MOMENTS}/")


def _from_schema_1(manifest: Manifest) -> Manifest:
    """Schema 1 has no run id, no configuration and no seal; missing values are not compared."""
    return {**manifest, "schema": 2, "run": "", "config": {}, "data": "", "packages": {}}


# From each older schema to the next one. Checkpoints of every schema are in tests/data/checkpoints.
MIGRATIONS: dict[int, Callable[[Manifest], Manifest]] = {1: _from_schema_1}


def size_and_sha256(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file, as a manifest lists them."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
