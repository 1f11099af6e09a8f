"""Figures of held-out evaluations: over training, by difficulty, and by the number of tries."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from obverse.report.figures import Figure, mean, together
from obverse.report.load_runs import AXES, RunData
from obverse.report.svg_chart import Chart, Series, number
from obverse.report.tables import EVALUATED, Table, average, table, with_interval
from obverse.runtime.fingerprint import short

SOLVED = (
    "The share of samples of held-out problems that the verifier graded correct, during training. These problems are "
    "never trained on, so the curve distinguishes learning from memorization. "
)
DIFFICULTY = "The same by difficulty of the problem: the mean may hide difficulties that stay at zero."
TRIES = (
    "pass@k is the probability that at least one of k samples is correct. A curve that starts higher but ends lower "
    "finds the same answers in fewer samples and solves no more problems."
)
BASE, BASE_COLOR = "before training", 6
WHISKERS = "Whiskers are 95 % intervals over problems."


def evaluation_figures(arms: Mapping[str, Sequence[RunData]]) -> Iterator[Figure]:
    """The figures of the evaluations during training."""
    runs = [run for members in arms.values() for run in members]
    if not any(run.evals for run in runs):
        return
    single_run = runs[0] if len(runs) == 1 else None
    axes = [axis for axis in AXES if all(axis in run.axes for run in runs if run.evals)]
    charts = {}
    for axis in axes:
        lines = (
            [solved(single_run, axis)] if single_run else [seeds(name, members, axis) for name, members in arms.items()]
        )
        series = [replace(line, color=i) for i, line in enumerate(lines) if line]
        charts[axis] = Chart(AXES[axis], "correct held-out samples", tuple(series), percent=True)
    note = WHISKERS if single_run else "Bands reach from the lowest to the highest seed."
    yield Figure("held-out", "Held-out problems solved", SOLVED + note, charts)
    if single_run:
        yield from by_difficulty(single_run)
    yield from by_tries({name: [run for run in members if run.evals] for name, members in arms.items()})


def solved(run: RunData, axis: str) -> Series:
    """avg@n over all held-out problems with its interval, at each evaluated step."""
    points = []
    for step, summary in sorted(run.evals.items()):
        row, x_value = summary.get("all", {}), run.axis_value(axis, step)
        if math.isfinite(average(row)) and math.isfinite(x_value):
            low, high = row.get("interval") or (average(row), average(row))
            points.append((x_value, average(row), float(low), float(high)))
    x, y, low_ends, high_ends = zip(*points, strict=True) if points else ((), (), (), ())
    return Series("", x, y, low_ends, high_ends, marks=True)


def seeds(name: str, runs: Sequence[RunData], axis: str) -> Series | None:
    """An arm's held-out curve over its seeds."""
    curves = [solved(run, axis) for run in runs if run.evals]
    return together(name, [list(zip(curve.x, curve.y, strict=True)) for curve in curves if curve.x])


def by_difficulty(run: RunData) -> Iterator[Figure]:
    """Bars of the first and the last evaluation by difficulty."""
    steps = sorted({min(run.evals), max(run.evals)})
    levels = [level for level in run.evals[steps[-1]] if level != "all"]
    if len(levels) < 2:
        return
    series = tuple(bars(f"step {step}", [run.evals[step].get(level, {}) for level in levels]) for step in steps)
    chart = Chart("difficulty", "correct held-out samples", series, "bars", tuple(levels), percent=True)
    yield Figure("difficulty", "By difficulty", f"{DIFFICULTY} {WHISKERS}", {"": chart}, "evaluation")


def bars(name: str, rows: Sequence[Mapping[str, Any]]) -> Series:
    """One bar per row of a summary."""
    values = tuple(map(average, rows))
    ends = [row.get("interval") or (value, value) for row, value in zip(rows, values, strict=True)]
    low, high = zip(*ends, strict=True)
    return Series(name, tuple(map(float, range(len(rows)))), values, low, high)


def by_tries(arms: Mapping[str, Sequence[RunData]]) -> Iterator[Figure]:
    """pass@k against k: before training, and after it by each arm."""
    first = [run.evals[0]["all"] for runs in arms.values() for run in runs if "all" in run.evals.get(0, {})]
    curves = [Series(BASE, *tries(first), marks=True, color=BASE_COLOR)] if first else []
    for i, (name, runs) in enumerate(arms.items()):
        last = [run.evals[max(run.evals)].get("all", {}) for run in runs if max(run.evals)]
        if last:
            curves.append(Series(name if len(arms) > 1 else "at the last step", *tries(last), marks=True, color=i))
    series = [curve for curve in curves if len(curve.x) > 1]
    if series:
        chart = Chart("k", "pass@k", tuple(series), percent=True, log_x=True)
        yield Figure("pass-at-k", "pass@k", TRIES, {"": chart}, "evaluation")


def measured(runs: Sequence[RunData]) -> Iterator[Table]:
    """A table of the stored results of `obverse eval`, a row per benchmark and checkpoint."""
    rows = []
    for run in runs:
        for result in run.results:
            row = result["summary"].get("all", {})
            metrics = [f"{name} {number(float(row[name]), True)}" for name in row if name.startswith(("pass@", "maj@"))]
            model = result.get("model", {}).get("name", "") or run.path.name
            cells = [
                result.get("name", ""),
                model,
                str(row.get("problems", "")),
                with_interval(row),
                ", ".join(metrics),
            ]
            cells += [graders(result)]
            rows.append([*cells, *(number(float(row.get(name) or 0.0), True) for name in ("truncated", "ungraded"))])
    if rows:
        header = ["benchmark", "model", "problems", "mean", "pass@k, maj@k", "graded by", "cut off", "ungraded"]
        yield table("Measured by obverse eval", header, rows, f"Mean share of correct samples; {EVALUATED}.")


def graders(result: Mapping[str, Any]) -> str:
    """The verifiers of a result with the first digits of their code's sha256; "" in files of earlier versions."""
    grader = result.get("grader")
    code = grader.get("code") if isinstance(grader, dict) else None
    return ", ".join(sorted({short(str(name)) for name in code.values()})) if isinstance(code, dict) else ""


def measured_tries(runs: Sequence[RunData]) -> Iterator[Figure]:
    """pass@k of the stored results of `obverse eval` with more than one k."""
    series = []
    for run in runs:
        for result in run.results:
            x, y = tries([result["summary"].get("all", {})])
            name = f"{result.get('name', '')}, {result.get('model', {}).get('name', '') or run.path.name}"
            series += [Series(name, x, y, marks=True)] if len(x) > 1 else []
    if series:
        chart = Chart("k", "pass@k", tuple(series), percent=True, log_x=True)
        yield Figure("measured", "pass@k, measured by obverse eval", TRIES, {"": chart}, "evaluation")


def tries(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """k, and the mean of pass@k over the rows."""
    names = [name for name in rows[0] if name.startswith("pass@")]
    pairs = sorted((float(name[5:]), mean([float(row[name]) for row in rows if name in row])) for name in names)
    return tuple(k for k, _ in pairs), tuple(value for _, value in pairs)
