"""The result file of an evaluation: its full configuration, the metrics, and the counts of every problem."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from obverse.data.renderer import Renderer
from obverse.errors import DamageError
from obverse.evaluation.eval_sets import EvalSet, Target
from obverse.evaluation.report import Report
from obverse.evaluation.sample_store import RESULT, SCHEMA, SampleStore
from obverse.inference import SamplingParams
from obverse.rewards.versions import full_identity
from obverse.runtime import fingerprint
from obverse.runtime import integrity as sealing
from obverse.runtime.run_dir import environment, installed
from obverse.types import Problem
from obverse.version import __version__


class ProblemCounts(TypedDict):
    """The fields of a problem in a result that are read back."""

    problem: str
    num_samples: int
    num_correct: int


class ModelName(TypedDict):
    """The fields of the model in a result that are read back."""

    name: str


class CountsResult(TypedDict):
    """The fields of a result that counting needs."""

    name: str
    model: ModelName
    problems: list[ProblemCounts]


class EvalResult(CountsResult):
    """The fields of a result that grading again and comparing need."""

    num_samples: int
    seeds: list[int]
    k: list[int]
    law: dict[str, Any]  # the sampling parameters


_SCHEMAS: dict[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (CountsResult, EvalResult)}


def read(path: Path, schema: type = EvalResult) -> dict[str, Any]:
    """Return a result file's content. Raises DamageError if the file is missing or not a result."""
    result = sealing.read_sealed(path)
    try:
        _SCHEMAS[schema].validate_python(result, strict=True)
    except ValidationError as error:
        first_error = error.errors()[0]
        location = ".".join(map(str, first_error["loc"]))
        raise DamageError(f"{path} is no result of obverse eval: {location}: {first_error['msg']}") from None
    return result


def write(
    report: Report,
    eval_set: EvalSet,
    target: Target,
    model: Mapping[str, Any],
    threads: int,
    store: SampleStore,
    renderer: Renderer,
    params: SamplingParams,
) -> Report:
    """Write `result.json`: the full configuration, the summary, and the counts of every problem."""
    config, protocol = eval_set.config, eval_set.protocol
    result = {
        "schema": SCHEMA,
        "name": eval_set.name,
        "dataset": eval_set.source,
        "rows": fingerprint.rows(sorted(eval_set.problems, key=lambda problem: problem.id), row_verifiers=False),
        "num_samples": config.num_samples,
        "seeds": list(range(config.seed, config.seed + config.num_seeds)),
        "k": list(report.k),
        "protocol": protocol
        and {
            "name": protocol.name,
            "source": protocol.source,
            "options": protocol.options(),
            "overridden": eval_set.overridden,
        },
        "model": {**model, "place": target.location},
        "template": {**renderer.record(), "trained": target.trained_template},
        "law": asdict(params),
        "grader": grader_record(config.verifier, eval_set.problems),
        "notes": list(report.notes),
        **metrics_of(report),
        "config": json.loads(config.model_dump_json()),
        "environment": environment(threads),
    }
    return replace(report, path=store.write_json(RESULT, result))


def metrics_of(report: Report) -> dict[str, Any]:
    """Return the summary and the problems of a result."""
    problems = [
        {name: value for name, value in asdict(score).items() if name not in ("texts", "correct")}
        for score in report.scores
    ]
    return {"summary": report.summary(), "problems": problems}


def grader_record(verifier: str | None, problems: Sequence[Problem]) -> dict[str, Any]:
    """Return the names, code hashes and library versions of the verifiers."""
    names = [verifier] if verifier else sorted({problem.verifier or "none" for problem in problems})
    code = {name: full_identity(name) for name in names if name != "none"}
    return {
        "verifiers": names,
        "code": code,
        "versions": {"obverse": __version__, "math-verify": installed("math-verify")},
    }
