"""The run folder: all writes to it go through RunFolder, except for checkpoints (see checkpoint.py)."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import platform
import socket
import uuid
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from obverse.errors import CheckpointError, DamageError, InUseError, StorageError
from obverse.runtime.file_writes import write_atomically
from obverse.runtime.json_lines import read_objects
from obverse.types import Group, sample_rows, to_json

LOCK = "run.lock"
PROBE = ".probe-{}-of-a-name-that-is-as-long-as-the-longest-path-in-a-checkpoint-{}.part"


class RunFolder:
    """`config.yaml`, `environment.json`, `metrics.jsonl`, `samples/step-*.jsonl`, `eval/*.json` under one path."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metrics_path = self.path / "metrics.jsonl"
        self._lock: BinaryIO | None = None

    def create(self) -> None:
        """Create the folder and check that it can be written; StorageError if not."""
        probe, moved = (self.path / PROBE.format(os.getpid(), name) for name in ("first", "second"))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with probe.open("w") as file:
                file.write("probe")
                file.flush()
                os.fsync(file.fileno())
            os.replace(probe, moved)
            moved.unlink()
        except OSError as error:
            with suppress(OSError):
                probe.unlink(missing_ok=True)
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> StorageError:
        return StorageError(
            f"run folder {self.path} cannot be written: {error.strerror}; nothing in it was changed: make room, or "
            "choose another --output_dir"
        )

    def lock(self) -> str:
        """Lock the folder until `release` or the end of the process; a note about a run that was killed in it, or "".

        The system releases the lock of a dead process, so a lock is never stale. Raises InUseError, which names the
        process that holds it, and StorageError if the folder cannot be locked.
        """
        try:
            file = (self.path / LOCK).open("a+b", buffering=0)
        except OSError as error:
            raise self._unwritable(error) from None
        owner = os.pread(file.fileno(), 200, 0).decode("ascii", "replace").strip()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise InUseError(
                f"run folder {self.path} is in use by {owner or 'another run'}, which is not affected: wait "
                "for its end, or choose another --output_dir"
            ) from None
        except OSError as error:
            file.close()
            raise StorageError(
                f"run folder {self.path} cannot be locked: {error.strerror}: choose an --output_dir on a file system "
                "that has locks"
            ) from None
        self._lock = file
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode("ascii", "replace"))
        except OSError as error:
            self.release()
            raise self._unwritable(error) from None
        return f"{self.path}: {owner} was killed before it could release the folder" if owner else ""

    def release(self) -> None:
        """Release the lock if it is held."""
        if self._lock is not None:
            with suppress(OSError):
                self._lock.truncate(0)
            self._lock.close()  # and with it the lock
            self._lock = None

    def write_text(self, name: str, text: str) -> Path:
        """Write a file atomically: a reader sees the old content or the new one. Returns its path."""
        return write_atomically(self.path / name, text.encode())

    def write_json(self, name: str, value: Any) -> Path:
        return self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """Append the row of a step to metrics.jsonl; numbers that are not finite become null."""
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(to_json(finite) + "\n")

    def metrics_fingerprint(self) -> dict[str, Any]:
        """The size of metrics.jsonl in bytes and its sha256, as a checkpoint stores them."""
        content = self.metrics_path.read_bytes() if self.metrics_path.exists() else b""
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def metrics_size_at(self, step: int, rows: Mapping[str, Any]) -> int:
        """The size in bytes of metrics.jsonl up to a checkpoint of `step` that stored `rows`; 0 without a file.

        Raises CheckpointError if the file has lost rows since, was changed, or is from another branch of the run.
        """
        if not self.metrics_path.exists():
            return 0
        content = self.metrics_path.read_bytes()
        size = rows["bytes"] if rows["bytes"] is not None else end_of_row(step, content) if step else 0
        if len(content) < size:
            raise CheckpointError(
                f"{self.metrics_path} has {len(content)} bytes and had {size} at the checkpoint: put the whole file "
                "back, or remove it to go on without the earlier rows"
            )
        head = content[:size]
        if rows["sha256"]:
            is_same = hashlib.sha256(head).hexdigest() == rows["sha256"]
        else:  # a state of version 1
            is_same = size == 0 or end_of_row(step, head) == size
        if not is_same:
            raise CheckpointError(
                f"{self.metrics_path} is not the file that the checkpoint of step {step} was saved beside: its first "
                f"{size} bytes were changed, or are of another branch of the run: put the file back, go on from "
                "another checkpoint by its path, or remove the file to go on without the earlier rows"
            )
        return int(size)

    def sync_metrics(self) -> None:
        """Flush metrics.jsonl to the disk, so that it never has fewer rows than a checkpoint saved later."""
        if self.metrics_path.exists():
            with self.metrics_path.open("rb") as file:
                os.fsync(file.fileno())

    def write_samples(self, step: int, groups: Iterable[Group], selected: Container[int]) -> None:
        """Write every completion of a step with its grade; `selected` has the object ids of the samples trained on."""
        rows = (
            to_json({**row, "kept": id(sample) in selected})
            for group in groups
            for sample, row in zip(group.samples, sample_rows(group), strict=True)
        )
        self.write_text(f"samples/step-{step:06d}.jsonl", "".join(f"{row}\n" for row in rows))

    def environment(self) -> dict[str, Any]:
        """The content of `environment.json`; empty if it is missing or incomplete."""
        path = self.path / "environment.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def threads(self) -> int:
        """The number of threads that the run began with; 0 if it is not recorded."""
        return int(self.environment().get("threads", 0))

    def run_id(self) -> str:
        """The run's id, which its checkpoints carry; "" if it is not recorded."""
        return str(self.environment().get("run", ""))

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl, without an incomplete last one; DamageError names a line that is not an object."""
        return list(read_objects(self.metrics_path, DamageError, ends_early=True)) if self.metrics_path.exists() else []

    def seconds(self, step: int) -> float | None:
        """The seconds of the steps up to `step`, those of the parent run included; None if rows are missing."""
        parent = self.environment().get("parent") or {"step": 0, "seconds": 0.0}
        rows = [row for row in self.metrics() if row["step"] <= step]
        if parent["seconds"] is None or [row["step"] for row in rows] != [*range(parent["step"] + 1, step + 1)]:
            return None
        return float(parent["seconds"] + sum(row["step_time"] for row in rows))


def end_of_row(step: int, content: bytes) -> int:
    """The offset of the end of a step's row in a metrics.jsonl; larger than its size if it has no such row."""
    size = 0
    for line in content.split(b"\n")[:-1]:
        size += len(line) + 1
        with suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["step"] == step:
                return size
    return len(content) + 1


class ReadOnlyRunFolder(RunFolder):
    """The run folder on ranks other than the first, which read it and write nothing."""

    def create(self) -> None: ...

    def lock(self) -> str:
        return ""

    def write_text(self, name: str, text: str) -> Path:
        return self.path / name

    def append_metrics(self, row: Mapping[str, float]) -> None: ...

    def write_samples(self, step: int, groups: Iterable[Group], selected: Container[int]) -> None: ...


def environment(threads: int, run: str = "") -> dict[str, Any]:
    """Versions and machine, for `environment.json`; no environment variables, which may hold secrets.

    `run` is the id of a resumed run; without it the run gets a new one.
    """
    machine = {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()}
    versions = {"run": run or uuid.uuid4().hex, "python": platform.python_version(), "packages": packages()}
    return {**versions, "threads": threads, **machine}


def packages() -> dict[str, str | None]:
    """The versions that decide a run's numbers."""
    return {name: installed(name) for name in ("obverse", "torch", "transformers", "tokenizers", "numpy")}


def installed(name: str) -> str | None:
    """The version of a package, or None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
