"""Loading the runs of a report: one run folder, or every run below a folder. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from obverse.comparison.plan import check_files
from obverse.config import yaml_file as config_file
from obverse.errors import ConfigError, DataError
from obverse.report import schemas
from obverse.report.schemas import check
from obverse.runtime import branches as history
from obverse.runtime import integrity as sealing
from obverse.runtime.json_lines import parse, read_object, read_objects
from obverse.runtime.progress import report_progress

Row = Mapping[str, Any]
COMPARISON = "comparison.yaml"
STANDINGS = "standings.json"
DEPTH = 4  # levels of folders that are searched for runs
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
    """A run as read from its folder; `evals` has the held-out summaries by step, each by difficulty."""

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
        """The values of each axis by row; an axis that the run has no numbers for is absent."""
        axes = {"steps": [float(step) for step in self.steps]}
        if self.has("num_tokens"):
            axes["tokens"] = self.values("num_tokens")
        if self.has("step_time"):
            axes["seconds"] = _running_sum(self.values("step_time"))
        if self.has("flops"):
            axes["flops"] = self.values("flops")
        elif self.num_parameters and self.has("tokens/trained"):
            pairs = zip(self.values("tokens/trained"), self.values("tokens/generated"), strict=True)
            axes["flops"] = _running_sum([self.num_parameters * (6 * a + 2 * b) for a, b in pairs])
        return axes

    def axis_value(self, axis: str, step: int) -> float:
        """The value of an axis at the end of a step; 0 before the first step, NaN for a step without a row."""
        value_at = dict(zip(self.steps, self.axes[axis], strict=True))
        return 0.0 if step == 0 else value_at.get(step, math.nan)

    def sample_files(self) -> dict[int, Path]:
        """The files of completions by step."""
        hidden = history.names_leaving(self.path)
        files = steps_of(self.path / "samples", "jsonl")
        return {step: path for step, path in files if f"samples/{path.name}" not in hidden}


def _running_sum(values: Sequence[float]) -> list[float]:
    return list(accumulate(0.0 if math.isnan(value) else value for value in values))


def is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and (folder / "metrics.jsonl").is_file()


def find_runs(folder: Path) -> list[RunData]:
    """The run in a folder, or all runs below it; DataError without any."""
    if is_run(folder):
        return [read_run(folder)]
    patterns = ["/".join(["*"] * depth) for depth in range(1, DEPTH + 1)]
    if (folder / COMPARISON).is_file():
        patterns = ["runs/*/*"]  # without the runs of the learning-rate search
    folders = sorted(
        path
        for path in {path for pattern in patterns for path in folder.glob(pattern) if is_run(path)}
        if history.FOLDER not in path.relative_to(folder).parts
    )
    if not folders:
        raise DataError(f"{folder} contains no run: a run folder has config.yaml and metrics.jsonl")
    runs = []
    for number, path in enumerate(folders, 1):
        runs.append(read_run(path))
        report_progress("read", number, len(folders))
    return runs


def read_run(folder: Path) -> RunData:
    """Read a run folder; files may be missing. DataError or DamageError names a file that cannot be used."""
    trial = folder / "trial.json"
    if trial.is_file():  # a finished run of a comparison, with fingerprints of its files
        check_files(folder, sealing.read_sealed(trial).get("files"))
    environment, move = folder / "environment.json", history.pending_move(folder)
    metrics = folder / "metrics.jsonl"  # missing before the first step
    rows = metrics_of(metrics) if metrics.is_file() else ()
    hidden = frozenset(move.names if move else ())
    return RunData(
        folder,
        read_config(folder / "config.yaml"),
        read_object(environment) if environment.is_file() else {},
        [row for row in rows if move is None or row["step"] <= move.step],
        {step: summary for step, summary in _evals(folder) if f"eval/step-{step:06d}.json" not in hidden},
        [
            check(schemas.RESULT, sealing.read_sealed(path), str(path))
            for path in sorted((folder / "eval").glob("*/*/result.json"))
            if f"eval/{path.parent.parent.name}" not in hidden
        ],
        num_parameters(folder),
    )


def metrics_of(path: Path) -> Iterator[Row]:
    """The rows of metrics.jsonl by rising step, without an incomplete last row of a killed run."""
    last = -1
    for number, row in enumerate(read_objects(path, ends_early=True), 1):
        if "step" not in row:
            raise DataError(f"{path}: row {number}: a row has no step")
        step = check(schemas.STEP, row["step"], f"{path}: row {number}: step")
        if step <= last:
            raise DataError(f"{path}: row {number}: step {step} comes after step {last}: rows of several runs")
        last = step
        yield {**check(schemas.ROW, row, f"{path}: row {number}"), "step": step}


def read_config(path: Path) -> Mapping[str, Any]:
    """The options of a run; DataError where the file is not a configuration."""
    try:
        return config_file.read(path).values
    except ConfigError as error:
        raise DataError(str(error).removeprefix("--config: ")) from None


def steps_of(folder: Path, suffix: str) -> Iterator[tuple[int, Path]]:
    """The files `step-N.SUFFIX` of a folder, by rising step."""
    named = [(re.fullmatch(r"step-(\d{1,15})", path.stem, re.ASCII), path) for path in folder.glob(f"step-*.{suffix}")]
    yield from sorted((int(match[1]), path) for match, path in named if match)


def _evals(folder: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Evaluations while training, eval/step-N.json: the step and its summary by difficulty."""
    for step, path in steps_of(folder / "eval", "json"):
        evaluation = read_object(path)
        yield step, check(schemas.SUMMARY, evaluation.get("summary", evaluation), str(path))


def checkpoints_of(folder: Path) -> list[Path]:
    """The folders `checkpoint-N` of a run by rising step, without those that are being moved out of its history."""
    named = [
        (re.fullmatch(r"checkpoint-(\d{1,15})", path.name, re.ASCII), path) for path in folder.glob("checkpoint-*")
    ]
    hidden = history.names_leaving(folder)
    numbered = [(int(match[1]), path) for match, path in named if match and path.name not in hidden]
    return [path for _, path in sorted(numbered)]


def num_parameters(folder: Path) -> int:
    """The number of parameters of the newest checkpoint, from the headers of its files; 0 without a checkpoint."""
    for checkpoint in reversed(checkpoints_of(folder)):
        files = list(checkpoint.glob("model*.safetensors"))
        if files:
            return sum(map(_num_parameters_of, files))
    return 0


def _num_parameters_of(path: Path) -> int:
    """A safetensors file begins with the length of its header (8 bytes, little endian), then the header as JSON."""
    where = f"{path} is not a safetensors file"
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length < path.stat().st_size else b""
    header = parse(text, where)
    if not isinstance(header, dict):
        raise DataError(where)
    header.pop("__metadata__", None)
    return sum(math.prod(tensor["shape"]) for tensor in check(schemas.HEADER, header, where).values())


def entry_labels(folder: Path) -> dict[str, str]:
    """The labels of a comparison's entries by the names of their folders; empty for other folders."""
    path = folder / STANDINGS
    return {entry["entry"]: entry["label"] for entry in read_standings(path)["entries"]} if path.is_file() else {}


def read_standings(path: Path) -> schemas.Standings:
    """Read standings.json; DamageError or DataError names the file if it is not one."""
    standings: schemas.Standings = check(schemas.STANDINGS, sealing.read_sealed(path), str(path))
    return standings


def arms(runs: Sequence[RunData], labels: Mapping[str, str]) -> dict[str, list[RunData]]:
    """The runs grouped by arm: runs that differ in nothing but the seed.

    An arm is an entry of a comparison, by the name of the parent folder; elsewhere it is the method, with the options
    in which runs of that method differ.
    """
    runs_by_arm: dict[str, list[RunData]] = {label: [] for label in labels.values()}
    if labels:
        for run in runs:
            runs_by_arm.setdefault(labels.get(run.path.parent.name, run.path.parent.name), []).append(run)
        return {label: members for label, members in runs_by_arm.items() if members}
    for run in runs:
        configs = [member.config for member in runs if member.method == run.method]
        options = [
            f"{name}={value}"
            for name, value in run.config.items()
            if name not in NOT_COMPARED and any(config.get(name) != value for config in configs)
        ]
        runs_by_arm.setdefault(run.method + (f" ({', '.join(options)})" if options else ""), []).append(run)
    return runs_by_arm
