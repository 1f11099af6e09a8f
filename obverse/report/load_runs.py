"""What a report reads: a run folder, or every run below a folder; the axes of their curves. No torch here."""

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
        leaving = history.names_leaving(self.path)
        files = steps_of(self.path / "samples", "jsonl")
        return {step: path for step, path in files if f"samples/{path.name}" not in leaving}


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
    below = sorted(
        path
        for path in {path for pattern in patterns for path in folder.glob(pattern) if is_run(path)}
        if history.FOLDER not in path.relative_to(folder).parts
    )
    if not below:
        raise DataError(f"{folder} holds no run: a run folder has config.yaml and metrics.jsonl")
    return [read_run(path) for path in below]


def read_run(folder: Path) -> RunData:
    """A run folder, whatever of it there is; DataError or DamageError says which file is no good."""
    trial = folder / "trial.json"
    if trial.is_file():  # of a comparison, which knows what the others were when the run was over
        check_files(folder, sealing.read_sealed(trial).get("files"))
    environment, move = folder / "environment.json", history.pending_move(folder)
    leaving = frozenset(move.names if move else ())
    return RunData(
        folder,
        read_config(folder / "config.yaml"),
        read_object(environment) if environment.is_file() else {},
        [row for row in metrics_of(folder / "metrics.jsonl") if move is None or row["step"] <= move.step],
        {step: summary for step, summary in _evals(folder) if f"eval/step-{step:06d}.json" not in leaving},
        [
            check(schemas.RESULT, sealing.read_sealed(path), str(path))
            for path in sorted((folder / "eval").glob("*/*/result.json"))
            if f"eval/{path.parent.parent.name}" not in leaving
        ],
        num_parameters(folder),
    )


def metrics_of(path: Path) -> Iterator[Row]:
    """The rows of metrics.jsonl by rising step; a last one that a killed run left half written is left out."""
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
    """The options of a run. DataError where the file is no list of options."""
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
        kept = read_object(path)
        yield step, check(schemas.SUMMARY, kept.get("summary", kept), str(path))


def num_parameters(folder: Path) -> int:
    """Numbers in the newest checkpoint's weights, from the headers of its files; 0 where they are not all there."""
    named = [
        (re.fullmatch(r"checkpoint-(\d{1,15})", path.name, re.ASCII), path) for path in folder.glob("checkpoint-*")
    ]
    leaving = history.names_leaving(folder)
    for _, checkpoint in sorted(
        ((int(match[1]), path) for match, path in named if match and path.name not in leaving), reverse=True
    ):
        files = list(checkpoint.glob("model*.safetensors"))
        if files:
            return sum(map(_num_numbers, files))
    return 0


def _num_numbers(path: Path) -> int:
    """A safetensors file begins with the length of its header (8 bytes, little endian), then the header as JSON."""
    where = f"{path} is no safetensors file"
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length < path.stat().st_size else b""
    header = parse(text, where)
    if not isinstance(header, dict):
        raise DataError(where)
    header.pop("__metadata__", None)
    return sum(math.prod(tensor["shape"]) for tensor in check(schemas.HEADER, header, where).values())


def entries(folder: Path) -> dict[str, str]:
    """What a comparison calls its entries, by the names of their folders; nothing for other folders."""
    path = folder / STANDINGS
    return {each["entry"]: each["label"] for each in read_standings(path)["entries"]} if path.is_file() else {}


def read_standings(path: Path) -> schemas.Standings:
    """The table of a comparison. DamageError or DataError, which names the file, where it is none."""
    standings: schemas.Standings = check(schemas.STANDINGS, sealing.read_sealed(path), str(path))
    return standings


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
