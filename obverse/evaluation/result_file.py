"""The file that an evaluation leaves: what was asked in full, the figures, and every problem's counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from obverse import __version__
from obverse.data.renderer import Renderer
from obverse.errors import DamageError
from obverse.evaluation.eval_sets import Target, Trial
from obverse.evaluation.report import Report
from obverse.evaluation.sample_store import RESULT, SCHEMA, Store
from obverse.inference import SamplingParams
from obverse.rewards.versions import full_identity
from obverse.runtime import fingerprint
from obverse.runtime import integrity as sealing
from obverse.runtime.run_dir import environment, installed
from obverse.types import Problem


class Counts(TypedDict):
    """A problem of a result, as far as it is read again."""

    problem: str
    num_samples: int
    num_correct: int


class Model(TypedDict):
    """The model of a result, as far as it is read again."""

    name: str


class Counted(TypedDict):
    """A result, as far as counts are made of it."""

    name: str
    model: Model
    problems: list[Counts]


class Stored(Counted):
    """A result, as far as it is read again."""

    num_samples: int
    seeds: list[int]
    k: list[int]
    law: dict[str, Any]  # the sampling parameters


_KINDS: dict[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (Counted, Stored)}


def read(path: Path, kind: type = Stored) -> dict[str, Any]:
    """A result as it was written. DamageError, which names the file, where it is missing or no result."""
    result = sealing.read_sealed(path)
    try:
        _KINDS[kind].validate_python(result, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DamageError(f"{path} is no result of obverse eval: {place}: {first['msg']}") from None
    return result


def write(
    report: Report,
    trial: Trial,
    target: Target,
    model: Mapping[str, Any],
    threads: int,
    store: Store,
    renderer: Renderer,
    params: SamplingParams,
) -> Report:
    """Write `result.json`: what was asked in full, the summary, and every problem's counts."""
    config, protocol = trial.config, trial.protocol
    result = {
        "schema": SCHEMA,
        "name": trial.name,
        "dataset": trial.source,
        "rows": fingerprint.rows(sorted(trial.problems, key=lambda each: each.id), own_verifiers=False),
        "num_samples": config.num_samples,
        "seeds": list(range(config.seed, config.seed + config.num_seeds)),
        "k": list(report.k),
        "protocol": protocol
        and {
            "name": protocol.name,
            "source": protocol.source,
            "options": protocol.options(),
            "overridden": trial.overridden,
        },
        "model": {**model, "place": target.place},
        "template": {**renderer.record(), "trained": target.trained},
        "law": asdict(params),
        "grader": grader(config.verifier, trial.problems),
        "notes": list(report.notes),
        **figures(report),
        "config": json.loads(config.model_dump_json()),
        "environment": environment(threads),
    }
    return replace(report, path=store.write_json(RESULT, result))


def figures(report: Report) -> dict[str, Any]:
    """The summary and the problems of a result."""
    kept = [
        {name: value for name, value in asdict(score).items() if name not in ("texts", "correct")}
        for score in report.scores
    ]
    return {"summary": report.summary(), "problems": kept}


def grader(verifier: str | None, problems: Sequence[Problem]) -> dict[str, Any]:
    """Which verifiers judged, and the code and versions that decide what they say."""
    names = [verifier] if verifier else sorted({problem.verifier or "none" for problem in problems})
    code = {name: full_identity(name) for name in names if name != "none"}
    return {
        "verifiers": names,
        "code": code,
        "versions": {"obverse": __version__, "math-verify": installed("math-verify")},
    }
