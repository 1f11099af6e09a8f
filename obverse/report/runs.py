"""What a report reads: a run folder, or every run below a folder; the axes of their curves. No torch here."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from obverse.errors import DataError

Row = Mapping[str, Any]
COMPARISON = "comparison.yaml"
STANDINGS = "standings.json"
DEPTH = 4  # folders below a comparison in which its runs may lie
NOT_COMPARED = {"seed", "output_dir", "report", "threads", "resume_from_checkpoint", "method"}
FLOPS = "6 x parameters x trained tokens + 2 x parameters x generated tokens"
AXES = {
    "steps": "steps",
    "tokens": "tokens, generated plus trained",
    "seconds": "seconds of sampling, grading and training",
    "flops": "FLOPs, estimated",
}


@dataclass(frozen=True)
class RunData:
    """A run as its folder tells it; `evals` has the held-out summaries by step, each by difficulty."""

    path: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    rows: Sequence[Row]
    evals: Mapping[int, Mapping[str, Mapping[str, Any]]]
    results: Sequence[Row]  # of obverse eval: eval/checkpoint-N/BENCHMARK/result.json
    num_parameters: int

    @property
    def method(self) -> str:
        return str(self.config.get("method", "?"))

    def values(self, name: str) -> list[float]:
        """A metric by row; NaN where the row has none."""
        return [math.nan if row.get(name) is None else float(row[name]) for row in self.rows]

    def has(self, name: str) -> bool:
        return any(row.get(name) is not None for row in self.rows)

    @property
    def steps(self) -> list[int]:
        return [int(row["step"]) for row in self.rows]

    @cached_property
    def axes(self) -> dict[str, list[float]]:
        """Where each row lies on each axis; an axis whose numbers the run does not have is left out."""
        found = {"steps": [float(step) for step in self.steps]}
        if self.has("num_tokens"):
            found["tokens"] = self.values("num_tokens")
        if self.has("step_time"):
            found["seconds"] = _running_sum(self.values("step_time"))
        if self.has("flops"):
            found["flops"] = self.values("flops")
        elif self.num_parameters and self.has("tokens/trained"):
            pairs = zip(self.values("tokens/trained"), self.values("tokens/generated"), strict=True)
            found["flops"] = _running_sum([self.num_parameters * (6 * a + 2 * b) for a, b in pairs])
        return found

    def place(self, axis: str, step: int) -> float:
        """Where the end of a step lies on an axis; 0 before the first."""
        known = dict(zip(self.steps, self.axes[axis], strict=True))
        return 0.0 if step == 0 else known.get(step, math.nan)

    def sample_files(self) -> dict[int, Path]:
        """The files of completions by step."""
        found = sorted((self.path / "samples").glob("step-*.jsonl"))
        return {int(path.stem.removeprefix("step-")): path for path in found}


def _running_sum(values: Sequence[float]) -> list[float]:
    return list(accumulate(0.0 if math.isnan(value) else value for value in values))


def is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and (folder / "metrics.jsonl").is_file()


def find_runs(folder: Path) -> list[RunData]:
    """The run in a folder, or all runs below it; DataError where there is none."""
    if is_run(folder):
        return [read_run(folder)]
    patterns = ["/".join(["*"] * depth) for depth in range(1, DEPTH + 1)]
    if (folder / COMPARISON).is_file():
        patterns = ["runs/*/*"]  # those of the search for a learning rate are no part of the result
    below = sorted({path for pattern in patterns for path in folder.glob(pattern) if is_run(path)})
    if not below:
        raise DataError(f"{folder} holds no run: a run folder has config.yaml and metrics.jsonl")
    return [read_run(path) for path in below]


def read_run(folder: Path) -> RunData:
    """A run folder, whatever of it there is; DataError says which file is no good."""
    rows = list(read_rows(folder / "metrics.jsonl"))
    if not all(isinstance(row.get("step"), int) for row in rows):
        raise DataError(f"{folder / 'metrics.jsonl'}: a row has no step")
    environment = folder / "environment.json"
    return RunData(
        folder,
        read_yaml(folder / "config.yaml"),
        read_json(environment) if environment.is_file() else {},
        rows,
        dict(_evals(folder)),
        [read_json(path) for path in sorted((folder / "eval").glob("*/*/result.json"))],
        num_parameters(folder),
    )


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a jsonl; a last one that a killed run left half written is left out."""
    lines = _text(path).split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                return
            raise DataError(f"{path}:{number}: not JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: expects an object")
        yield row


def read_json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(_text(path))
    except yaml.YAMLError:
        raise DataError(f"{path}: not YAML") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: expects a line per option")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not a text in UTF-8") from None


def _evals(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Evaluations while training, eval/step-N.json: the step and its summary by difficulty."""
    for path in sorted((folder / "eval").glob("step-*.json")):
        if match := re.fullmatch(r"step-(\d+)", path.stem):
            found = read_json(path)
            yield int(match[1]), found.get("summary", found)


def num_parameters(folder: Path) -> int:
    """Numbers in the newest checkpoint's weights, from the headers of its files; 0 where they are not all there."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for checkpoint in sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True):
        files = list(checkpoint.glob("model*.safetensors"))
        if files:
            return sum(map(_num_numbers, files))
    return 0


def _num_numbers(path: Path) -> int:
    """A safetensors file begins with the length of its header (8 bytes, little endian), then the header as JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length < path.stat().st_size else b""
    try:
        header = json.loads(text)
    except ValueError:
        raise DataError(f"{path} is no safetensors file") from None
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def entries(folder: Path) -> dict[str, str]:
    """What a comparison calls its entries, by the names of their folders; nothing for other folders."""
    path = folder / STANDINGS
    return {each["entry"]: each["label"] for each in read_json(path)["entries"]} if path.is_file() else {}


def arms(runs: Sequence[RunData], labels: Mapping[str, str]) -> dict[str, list[RunData]]:
    """The runs by what was tried, seeds together.

    That is the entry of a comparison that the run's folder lies in, else the method, with the options in which runs of
    that method differ.
    """
    found: dict[str, list[RunData]] = {label: [] for label in labels.values()}
    if labels:
        for run in runs:
            found.setdefault(labels.get(run.path.parent.name, run.path.parent.name), []).append(run)
        return {label: members for label, members in found.items() if members}
    for run in runs:
        same = [other.config for other in runs if other.method == run.method]
        options = [
            f"{name}={value}"
            for name, value in run.config.items()
            if name not in NOT_COMPARED and any(other.get(name) != value for other in same)
        ]
        found.setdefault(run.method + (f" ({', '.join(options)})" if options else ""), []).append(run)
    return found
