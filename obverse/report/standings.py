"""The tables of a comparison (standings.json) and of a demo (demo.json); figures link to their samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from obverse.report import schemas
from obverse.report.evaluations import BASE, BASE_COLOR
from obverse.report.figures import Figure
from obverse.report.load_runs import read_standings
from obverse.report.svg_chart import Chart, Series, number
from obverse.report.tables import Cell, Table, table
from obverse.runtime.json_lines import read_object

STEPS = {
    "last": "the last step, with the budget used up",
    "best": "the best step, chosen on validation problems and measured on the test problems",
}
NOTE = (
    "Mean pass@{k} and its 95 % interval over problems and seeds. Each entry is compared with the best baseline, "
    "problem by problem; {verdict} means that the interval of the difference contains 0. Figures link to their samples."
)
TRIES = (
    "pass@k of the last step against k, on each test set. An entry that leads at k = 1 but not at large k finds "
    "the same answers in fewer samples and solves no more problems."
)


def standings_tables(folder: Path, back: str, links: Mapping[str, str]) -> Iterator[Table]:
    """A table for the last step, one for the best step, and the costs; `back` is the link from the page to it."""
    standings = read_standings(folder / "standings.json")
    first, columns = standings["k"][0], standings["columns"]
    labels = {"base": BASE} | {figure["entry"]: figure["label"] for figure in standings["entries"]}
    for step, meaning in STEPS.items():
        cells = {
            (figure["entry"], figure["test"]): figure
            for figure in standings["figures"]
            if figure["step"] == step and figure["k"] == first
        }
        rows = []
        for entry, label in labels.items():
            figures = [cells.get((entry, test)) for test in columns]
            if any(figures):
                rows.append([Cell(label, links.get(entry, "")), *(figure_cell(figure, back) for figure in figures)])
        note = NOTE.format(k=first, verdict='"not distinguishable"')
        yield table(f"At {meaning}", ["method", *columns], rows, note)
    yield costs(standings)


def figure_cell(figure: Mapping[str, Any] | None, back: str) -> Cell:
    """A figure with its interval, its comparison with the best baseline, and a link to its samples."""
    if figure is None:
        return Cell("-")
    note = f"{number(figure['low'], True)} to {number(figure['high'], True)}\n{figure.get('verdict') or ''}"
    samples = figure.get("samples")
    return Cell(number(figure["mean"], True), f"{back}/{quote(samples)}" if samples else "", note.strip())


def costs(standings: Mapping[str, Any]) -> Table:
    """The cost of each entry; its learning-rate search in a column of its own."""
    rows = []
    for entry in standings["entries"]:
        spent = [", ".join(map(number, entry.get(name) or [])) for name in ("steps", "num_tokens", "seconds", "flops")]
        trials = entry.get("grid") or []
        grid = f"{len(trials)} tried, {number(sum(trial['num_tokens'] for trial in trials))} tokens" if trials else "-"
        rows.append(
            [entry["label"], number(entry["rate"]), *spent, grid, ", ".join(map(str, entry.get("failed") or []))]
        )
    header = ["method", "learning rate", "steps", "tokens", "seconds", "FLOPs", "rate search", "failed"]
    cost = standings.get("teacher_cost")
    on_teacher = f", {number(cost)} of it on the teacher of methods that read one" if cost else ""
    budget = f"{number(standings['budget'])} {standings['budget_in']}{on_teacher}"
    note = f"The budget of each run: {budget}. A number per seed."
    return table("Cost", header, rows, note)


def standings_figures(folder: Path) -> Iterator[Figure]:
    """pass@k of every entry at the last step, a figure per test set, if more than one k was measured."""
    standings = read_standings(folder / "standings.json")
    labels = {figure["entry"]: figure["label"] for figure in standings["entries"]}
    colors = {entry: i for i, entry in enumerate(labels)} | {"base": BASE_COLOR}
    for index, test in enumerate(standings["columns"] if len(standings["k"]) > 1 else ()):
        series = []
        for entry, label in {"base": BASE, **labels}.items():
            rows = [
                figure
                for figure in standings["figures"]
                if (figure["entry"], figure["test"], figure["step"]) == (entry, test, "last")
            ]
            rows.sort(key=lambda figure: figure["k"])
            if rows:
                x, y = tuple(float(figure["k"]) for figure in rows), tuple(float(figure["mean"]) for figure in rows)
                series.append(Series(label, x, y, marks=True, color=colors[entry]))
        if series:
            chart = Chart("k", f"pass@k on {test}", tuple(series), percent=True, log_x=True)
            yield Figure(f"tries-{index}", f"pass@k: {test}", TRIES, {"": chart}, "evaluation")


def demo_table(folder: Path) -> Table:
    """Held-out pass@1 and pass@8 by difficulty, a column per policy."""
    path = folder / "demo.json"
    policies = schemas.check(schemas.DEMO, read_object(path), str(path))
    levels = list(next(iter(policies.values()), {}))
    names = list(dict.fromkeys(name for rows in policies.values() for row in rows.values() for name in row))
    rows = [
        [level, *(" / ".join(number(policy[level][name], True) for name in names) for policy in policies.values())]
        for level in levels
    ]
    note = f"{' / '.join(names)} on held-out problems, by the number of operations; the same budget for every method."
    return table("Held-out problems solved", ["operations", *policies], rows, note)
