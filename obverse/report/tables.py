"""The tables of a page: results, costs, options and environments."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from obverse.report.figures import mean
from obverse.report.load_runs import AXES, RunData
from obverse.report.svg_chart import number

PART = 10  # "at first" and "at last" are means over a tenth of the steps
EVALUATED = "in brackets: the 95 % interval over problems"


@dataclass(frozen=True)
class Cell:
    text: str
    link: str = ""
    note: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Table:
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str | Cell]], note: str = "") -> Table:
    """A table; plain texts become cells."""
    cells = tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
    return Table(title, tuple(header), cells, note)


def ends(run: RunData, name: str) -> tuple[float, float]:
    """The mean of a metric over the first and over the last tenth of the steps."""
    values = [value for value in run.values(name) if math.isfinite(value)]
    size = max(len(values) // PART, 1)
    return mean(values[:size]), mean(values[-size:])


def headline(run: RunData) -> Iterator[Table]:
    """The tables of a single run: held-out problems before and after training, rollouts, costs."""
    if run.evals:
        yield held_out(run)
    rows = []
    for name, label, percent in (
        ("reward", "reward", False),
        ("accuracy", "correct rollouts", True),
        ("problems/demonstration", "problems that train on a demonstration", True),
        ("entropy", "entropy (nats)", False),
        ("completions/mean_length", "length of completions (tokens)", False),
    ):
        if run.has(name):
            rows.append([label, *(number(value, percent) for value in ends(run, name))])
    size = max(len(run.rows) // PART, 1)
    note = f"Means over {size} step{'s' if size > 1 else ''}; on training problems, not on held-out ones."
    yield table("During training", ["", "at first", "at last"], rows, note)
    yield table("Cost", ["", "total"], [[AXES[axis], number(x[-1])] for axis, x in run.axes.items() if x])


def held_out(run: RunData) -> Table:
    """pass@1 by difficulty at the first, the best and the last evaluation."""
    steps = sorted(run.evals)
    best = max(steps, key=lambda step: average(run.evals[step].get("all", {})))
    selected = list(dict.fromkeys([steps[0], best, steps[-1]]))
    names = {steps[0]: "first", steps[-1]: "last"}
    header = ["difficulty", "problems"]
    header += [
        f"step {step} ({names.get(step, 'best')}{', best' if step == best and step in names else ''})"
        for step in selected
    ]
    levels = list(run.evals[steps[-1]])
    rows = []
    for level in levels:
        summaries = [run.evals[step].get(level, {}) for step in selected]
        rows.append([level, str(summaries[-1].get("problems", "")), *map(with_interval, summaries)])
    return table(
        "Held-out problems solved",
        header,
        rows,
        f"The mean share of correct samples; {EVALUATED}. The best step "
        "was chosen on the same problems, so its figure is biased upwards.",
    )


def average(row: Mapping[str, Any]) -> float:
    """avg@n of a row of a summary, whatever n is; NaN where it has none."""
    return next((float(value) for name, value in row.items() if name.startswith("avg@")), math.nan)


def with_interval(row: Mapping[str, Any]) -> str:
    low, high = row.get("interval", (math.nan, math.nan))
    text = number(average(row), percent=True)
    return f"{text} ({number(low, True)} to {number(high, True)})" if math.isfinite(low) else text


def arms_table(arms: Mapping[str, Sequence[RunData]]) -> Table:
    """A row per arm: its seeds, results and costs."""
    rows = []
    for label, members in arms.items():
        seeds = ", ".join(str(run.config.get("seed")) for run in members)
        last = [average(run.evals[max(run.evals)].get("all", {})) for run in members if run.evals]
        solved = [ends(run, "accuracy")[1] for run in members if run.has("accuracy")]
        cost = [number(mean([run.axes[axis][-1] for run in members if run.axes.get(axis)])) for axis in AXES]
        rows.append([label, seeds, spread_of(last), spread_of(solved), *cost])
    header = [
        "method",
        "seeds",
        "held-out, last",
        "correct rollouts, last tenth",
        "steps",
        "tokens",
        "seconds",
        "FLOPs",
    ]
    note = "Of several seeds the mean, in brackets the lowest and the highest. Held-out: during training."
    return table("Side by side", header, rows, note)


def runs_table(arms: Mapping[str, Sequence[tuple[RunData, str]]]) -> Table:
    """A row per run, with a link to it."""
    rows: list[list[str | Cell]] = []
    for label, members in arms.items():
        for run, link in members:
            last = run.evals[max(run.evals)].get("all", {}) if run.evals else {}
            steps = str(run.steps[-1]) if run.rows else "0"
            rows.append([Cell(label, link), str(run.config.get("seed")), steps, with_interval(last)])
    return table("Every run", ["run", "seed", "steps", "held-out, last"], rows, f"{EVALUATED.capitalize()}.")


def spread_of(values: Sequence[float]) -> str:
    if not values:
        return "-"
    text = number(mean(values), percent=True)
    return f"{text} ({number(min(values), True)} to {number(max(values), True)})" if len(values) > 1 else text


def settings(runs: Sequence[RunData]) -> Iterator[Table]:
    """The options that all runs share, those in which they differ, and the environments."""
    names = list(dict.fromkeys(name for run in runs for name in run.config))
    same = [name for name in names if all(run.config.get(name) == runs[0].config.get(name) for run in runs)]
    yield table(
        "Options" if len(runs) == 1 else "Options of all runs",
        ["option", "value"],
        [[name, as_text(runs[0].config.get(name))] for name in same],
    )
    differing = [name for name in names if name not in same]
    if differing:
        rows = [[run.path.name, *(as_text(run.config.get(name)) for name in differing)] for run in runs]
        yield table("Options in which they differ", ["run", *differing], rows)
    machines: dict[str, list[tuple[str, str]]] = {}
    for run in runs:
        machines.setdefault(str(run.environment), list(facts(run.environment)))
    for i, machine in enumerate(machines.values()):
        yield table("Environment" + (f" {i + 1}" if len(machines) > 1 else ""), ["", "value"], machine)


def facts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values; nested names as `outer.inner`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", text) for inner, text in facts(value))
        else:
            yield name, as_text(value)


def as_text(value: Any) -> str:
    """An option's value as written in a configuration file."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
