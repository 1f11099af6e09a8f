"""The run folder: what stands in it, and the only hands that write it (checkpoints have their own file)."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Container, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from obverse.errors import StorageError
from obverse.records import Group, sample_rows, to_json


class RunFolder:
    """`config.yaml`, `environment.json`, `metrics.jsonl`, `samples/step-*.jsonl`, `eval/*.json` under one path."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metrics_path = self.path / "metrics.jsonl"

    def create(self) -> None:
        """Make the folder and prove that it can be written; StorageError says why not."""
        probe = self.path / ".probe"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe.write_text("probe")
            probe.unlink()
        except OSError as error:
            raise StorageError(
                f"run folder {self.path} cannot be written: {error.strerror}; choose --output_dir"
            ) from None

    def write_text(self, name: str, text: str) -> Path:
        """A whole file at once: a reader sees the old one or the new one."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, target)
        return target

    def write_json(self, name: str, value: Any) -> Path:
        return self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """One line per step; a number that is not finite is written as null, for JSON has no other word for it."""
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(to_json(finite) + "\n")

    def metrics_offset(self) -> int:
        """The size of metrics.jsonl in bytes: a checkpoint remembers it."""
        return self.metrics_path.stat().st_size if self.metrics_path.exists() else 0

    def rewind_metrics(self, offset: int) -> None:
        """Drop the rows after a checkpoint, so that each step stands in the file once."""
        if self.metrics_path.exists():
            os.truncate(self.metrics_path, offset)

    def write_samples(self, step: int, groups: Iterable[Group], kept: Container[int]) -> None:
        """Every completion of a step with its reward and reason; `kept` holds the object ids of what is trained on."""
        rows = (
            to_json({**row, "kept": id(sample) in kept})
            for group in groups
            for sample, row in zip(group.samples, sample_rows(group), strict=True)
        )
        self.write_text(f"samples/step-{step:06d}.jsonl", "".join(f"{row}\n" for row in rows))

    def threads(self) -> int:
        """The threads that the run began with; 0 where nobody wrote them down."""
        path = self.path / "environment.json"
        return int(json.loads(path.read_text(encoding="utf-8")).get("threads", 0)) if path.exists() else 0

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl."""
        if not self.metrics_path.exists():
            return []
        return [json.loads(line) for line in self.metrics_path.read_text(encoding="utf-8").splitlines()]


def environment(threads: int) -> dict[str, Any]:
    """Versions and machine, for `environment.json`; no environment variables, which may hold secrets."""
    packages = {name: installed(name) for name in ("obverse", "torch", "transformers", "tokenizers", "numpy")}
    machine = {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()}
    return {"python": platform.python_version(), "packages": packages, "threads": threads, **machine}


def installed(name: str) -> str | None:
    """The version of an installed package, None where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
