"""Figures of a model card: results of evaluations, with confidence intervals and the protocol of each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from obverse.errors import ConfigError, DamageError
from obverse.evaluation import result_file
from obverse.evaluation.sample_store import RESULT, identity
from obverse.hub.training_record import TrainingRecord
from obverse.runtime import fingerprint
from obverse.runtime.json_lines import read_object

_METRIC = re.compile(r"(?:avg|pass|maj)@\d+")


@dataclass(frozen=True)
class Figure:
    """A metric of an evaluation: a fraction with the bounds of its 95 % confidence interval."""

    metric: str  # avg@n, pass@k or maj@k
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class EvaluationFigures:
    """The figures of one evaluation; `protocol` describes how its samples were drawn and graded, in one line."""

    data: str
    sha256: str  # of the rows; "" if it is not recorded
    num_problems: int
    protocol: str
    figures: tuple[Figure, ...]


def evaluations_of(
    folder: Path, record: TrainingRecord | None, results: Path | None = None
) -> tuple[EvaluationFigures, ...]:
    """The evaluations of the model in `folder`, in order of names.

    They are the evaluation during training at the checkpoint's step, and the results of `obverse eval` in the run
    folder, or those below `results`. A result in the run folder that is of other weights is left out. Raises
    ConfigError if `results` has no result, or one of other weights, DamageError for a changed result.
    """
    evaluations = [] if record is None else list(_during_training(folder, record))
    root = results or folder.parent / "eval" / folder.name
    paths = sorted(root.rglob(RESULT)) if results or record else []
    if results and not paths:
        raise ConfigError(f"--eval_results: {results} has no {RESULT} of obverse eval")
    weights = identity(str(folder)) if paths else ""
    for path in paths:
        result = result_file.read(path)
        if result["model"].get("identity") == weights:
            evaluations.append(_of_result(result, path))
        elif results:
            raise ConfigError(f"--eval_results: {path} is an evaluation of other weights than those of {folder}")
    return tuple(evaluations)


def _during_training(folder: Path, record: TrainingRecord) -> Iterator[EvaluationFigures]:
    path = folder.parent / "eval" / f"step-{record.step:06d}.json"
    if not path.is_file() or record.options.get("eval_dataset") is None:
        return
    row = _whole(read_object(path, DamageError), path)
    names = ("num_generations_eval", "temperature", "top_p", "top_k", "min_p", "max_completion_length", "seed")
    samples, temperature, top_p, top_k, min_p, length, seed = (record.options.get(name) for name in names)
    law = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p, "max_tokens": length}
    protocol = f"during training; {_sampling(samples, law, [seed])}; verifier: {record.verifier()}"
    sha256 = record.inputs.get("eval_dataset", "")
    yield EvaluationFigures(record.text("eval_dataset"), sha256, row["problems"], protocol, _figures(row))


def _of_result(result: Mapping[str, Any], path: Path) -> EvaluationFigures:
    row = _whole(result["summary"], path)
    parts = [_sampling(result["num_samples"], result["law"], result["seeds"])]
    if protocol := result.get("protocol"):
        changed = ", ".join(f"{name} {used}" for name, (_, used) in protocol["overridden"].items())
        parts.insert(0, f"protocol {protocol['name']}" + (f", with {changed}" if changed else ""))
    grader = result["grader"]
    versions = ", ".join(f"{name} {version}" for name, version in grader["versions"].items() if version)
    verifiers = ", ".join(fingerprint.short(name) for name in grader["code"].values()) or ", ".join(grader["verifiers"])
    parts.append(f"verifier {verifiers} ({versions})")
    parts.append(f"template {result['template']['name']}")
    return EvaluationFigures(
        result["name"], str(result.get("rows") or ""), row["problems"], "; ".join(parts), _figures(row)
    )


def _whole(summary: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The row of a summary over all difficulties. Raises DamageError if it is missing."""
    row = summary.get("all")
    if not isinstance(row, dict) or not {"problems", "interval", "intervals"} <= row.keys():
        raise DamageError(f"{path} is no result of an evaluation: restore the file, or move it away")
    return row


def _figures(row: Mapping[str, Any]) -> tuple[Figure, ...]:
    names = [name for name in row if _METRIC.fullmatch(name)]
    bounds = {name: row["intervals"].get(name, row["interval"]) for name in names}
    return tuple(Figure(name, row[name], *bounds[name]) for name in names)


def _sampling(num_samples: Any, law: Mapping[str, Any], seeds: list[Any]) -> str:
    truncation = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}
    used = [f"{name} {law[name]:g}" for name, off in truncation.items() if law.get(name, off) != off]
    parts = [f"{num_samples} completions per problem", f"temperature {law['temperature']:g}", *used]
    parts += [f"at most {law['max_tokens']} tokens", f"seed {', '.join(map(str, seeds))}"]
    return ", ".join(parts)
