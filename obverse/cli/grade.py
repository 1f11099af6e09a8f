"""`obverse grade`: the verdict of a verifier on every row of a file of predictions."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from obverse.cli.progress_panel import Panel
from obverse.config.commands import GradeConfig
from obverse.data.file_formats import kind_of, listed, read_file
from obverse.data.layouts import Flaw, RowLocation
from obverse.data.readers import report
from obverse.errors import DataError
from obverse.python_files import read_once
from obverse.rewards import NAMES, get_verifier, parse_verifiers, reference_error, start_workers, with_weights
from obverse.runtime.progress import report_progress
from obverse.types import Problem

WORDS = {True: "true", False: "false", None: "error"}


def run(config: GradeConfig) -> int:
    with Panel.beside_results():
        grade(config, lambda row: print(json.dumps(row), flush=True))
    return 0


@read_once()
def grade(config: GradeConfig, show: Callable[[dict[str, Any]], None]) -> None:
    """Grade every row of a file in order, and call `show` with each result at once.

    A row has `prediction` and, unless only user functions grade it, `answer`; its other columns are the problem's meta
    (`choices`, `tolerance`, columns that functions read). A result has `verdict` (true, false or error), `reason`
    (empty for true), `seconds`, and `reward` if it differs from the verdict's 1 or 0.

    Raises ConfigError for an unknown verifier, DataError with all bad rows before any is graded.
    """
    spec = str(with_weights(config.verifier, config.verifier_weights))
    verify = get_verifier(spec, config.verifier_seconds)
    problems = list(read(str(config.file), spec))
    start_workers(spec)
    for number, (problem, prediction) in enumerate(problems):
        report_progress("grade", number, len(problems))
        start = time.perf_counter()
        result = verify(problem, prediction)
        seconds = round(time.perf_counter() - start, 6)
        reason = "" if result.correct else result.reason
        row: dict[str, Any] = {"verdict": WORDS[result.correct], "reason": reason, "seconds": seconds}
        show(row if result.reward == bool(result.correct) else row | {"reward": result.reward})


def read(file: str, spec: str) -> Iterator[tuple[Problem, str]]:
    """The rows of a file as problems with predictions. DataError if there are none, or for all bad rows."""
    path = Path(file).expanduser()
    if kind_of(path) is None or not path.is_file():
        raise DataError(f"{file}: not a file of rows; give an existing {listed()} file")
    flaws: list[Flaw] = []
    predictions: list[tuple[Problem, str]] = []
    num_rows = 0
    for place, row in read_file(path):
        num_rows += 1
        parsed = row if isinstance(row, Flaw) else as_problem(row, place, spec)
        if isinstance(parsed, Flaw):
            flaws.append(parsed)
        else:
            predictions.append(parsed)
    if flaws:
        raise DataError(report(flaws, num_rows))
    if not predictions:
        raise DataError(f"{file}: no rows")
    return iter(predictions)


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
