"""`obverse grade`: the verdict of a verifier on every row of a file of predictions."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from obverse.config.commands import GradeConfig
from obverse.data.file_formats import kind_of, listed, read_file
from obverse.data.layouts import Flaw, RowLocation
from obverse.data.readers import report
from obverse.errors import DataError
from obverse.python_files import read_once
from obverse.rewards import NAMES, get_verifier, parse_verifiers, reference_error, start_workers, with_weights
from obverse.types import Problem

WORDS = {True: "true", False: "false", None: "error"}


def run(config: GradeConfig) -> int:
    grade(config, lambda row: print(json.dumps(row), flush=True))
    return 0


@read_once()
def grade(config: GradeConfig, show: Callable[[dict[str, Any]], None]) -> None:
    """Grade every row of a file, in order, and `show` what came out of each as soon as it is known.

    A row has `prediction` and, unless only functions of the user grade it, `answer`; whatever else it has is kept as
    meta (`choices`, `tolerance`, columns that functions ask for). Shown: `verdict` (true, false or error), `reason`
    (empty for true), `seconds`, and `reward` where it is not the verdict's 1 or 0.

    Errors: ConfigError for a verifier that is none, DataError with all bad rows before any is graded.
    """
    spec = str(with_weights(config.verifier, config.verifier_weights))
    judge = get_verifier(spec, config.verifier_seconds)
    problems = list(read(str(config.file), spec))
    start_workers(spec)
    for problem, prediction in problems:
        start = time.perf_counter()
        result = judge(problem, prediction)
        seconds = round(time.perf_counter() - start, 6)
        reason = "" if result.correct else result.reason
        row: dict[str, Any] = {"verdict": WORDS[result.correct], "reason": reason, "seconds": seconds}
        show(row if result.reward == bool(result.correct) else row | {"reward": result.reward})


def read(file: str, spec: str) -> Iterator[tuple[Problem, str]]:
    """The rows of a file as problems with predictions. Errors: DataError if there is none or any row is bad."""
    path = Path(file).expanduser()
    if kind_of(path) is None or not path.is_file():
        raise DataError(f"{file}: not a file of rows; give a {listed()} file that is there")
    flaws: list[Flaw] = []
    found: list[tuple[Problem, str]] = []
    num_rows = 0
    for place, row in read_file(path):
        num_rows += 1
        one = row if isinstance(row, Flaw) else as_problem(row, place, spec)
        if isinstance(one, Flaw):
            flaws.append(one)
        else:
            found.append(one)
    if flaws:
        raise DataError(report(flaws, num_rows))
    if not found:
        raise DataError(f"{file}: no rows")
    return iter(found)


def as_problem(row: object, place: RowLocation, spec: str) -> tuple[Problem, str] | Flaw:
    """Return a row's problem and prediction, or what is wrong with it."""
    if not isinstance(row, dict):
        return Flaw(place, "row", "not an object")
    prediction = row.get("prediction")
    if not isinstance(prediction, str):
        return Flaw(place, "prediction", "missing" if prediction is None else "not text")
    meta = {key: value for key, value in row.items() if key not in ("id", "prompt", "prediction", "answer")}
    problem = Problem(
        str(row.get("id", f"{path_stem(place)}-{place.line}")), row.get("prompt", ""), row.get("answer"), meta=meta
    )
    for name, _ in parse_verifiers(spec):
        if name in NAMES:
            reason = "missing" if problem.answer is None else reference_error(name, problem)
            if reason:
                return Flaw(place, "answer", reason)
    return problem, prediction


def path_stem(place: RowLocation) -> str:
    return Path(place.file).stem
