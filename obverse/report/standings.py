"""The table of a comparison (standings.json) and of a demo (demo.json), every figure with the way to its samples."""

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
    "last": "the last step: what the budget buys, nothing chosen",
    "best": "the best step, chosen on validation problems and measured on the test problems",
}
NOTE = (
    "Mean pass@{k} and its 95 % interval over problems and seeds. Each entry is compared with the best baseline, "
    "problem by problem; {verdict} means that the interval of the difference holds 0. Figures lead to their samples."
)
TRIES = (
    "pass@k of the last step against k, on each test set. An entry that leads at k = 1 and is passed at large k became "
    "surer, not abler."
)


def standing_tables(folder: Path, back: str, links: Mapping[str, str]) -> Iterator[Table]:
    """A table for the last step and one for the best, never mixed; `back` leads from the page to the folder."""
    standings = read_standings(folder / "standings.json")
    first, columns = standings["k"][0], standings["columns"]
    labels = {"base": BASE} | {each["entry"]: each["label"] for each in standings["entries"]}
    for step, meaning in STEPS.items():
        found = {
            (each["entry"], each["test"]): each
            for each in standings["figures"]
            if each["step"] == step and each["k"] == first
        }
        rows = []
        for entry, label in labels.items():
            figures = [found.get((entry, test)) for test in columns]
            if any(figures):
                rows.append([Cell(label, links.get(entry, "")), *(figure_cell(each, back) for each in figures)])
        note = NOTE.format(k=first, grade='"not distinguishable"')
        yield table(f"At {meaning}", ["method", *columns], rows, note)
    yield costs(standings)


def figure_cell(figure: Mapping[str, Any] | None, back: str) -> Cell:
    """A figure with its interval, its verdict, and the way to the samples behind it."""
    if figure is None:
        return Cell("-")
    note = f"{number(figure['low'], True)} to {number(figure['high'], True)}\n{figure.get('verdict') or ''}"
    samples = figure.get("samples")
    return Cell(number(figure["mean"], True), f"{back}/{quote(samples)}" if samples else "", note.strip())


def costs(standings: Mapping[str, Any]) -> Table:
    """What each entry spent, its search for a learning rate apart."""
    rows = []
    for each in standings["entries"]:
        spent = [", ".join(map(number, each.get(name) or [])) for name in ("steps", "num_tokens", "seconds", "flops")]
        tried = each.get("grid") or []
        grid = f"{len(tried)} tried, {number(sum(trial['num_tokens'] for trial in tried))} tokens" if tried else "-"
        rows.append([each["label"], number(each["rate"]), *spent, grid, ", ".join(map(str, each.get("failed") or []))])
    header = ["method", "learning rate", "steps", "tokens", "seconds", "FLOPs", "rate search", "failed"]
    budget = f"The budget of each run: {number(standings['budget'])} {standings['budget_in']}. A number per seed."
    return table("Cost", header, rows, budget)


def standing_figures(folder: Path) -> Iterator[Figure]:
    """pass@k of every entry at the last step, a figure per column, where more than one k was measured."""
    standings = read_standings(folder / "standings.json")
    labels = {each["entry"]: each["label"] for each in standings["entries"]}
    colors = {entry: i for i, entry in enumerate(labels)} | {"base": BASE_COLOR}
    for number_of, test in enumerate(standings["columns"] if len(standings["k"]) > 1 else ()):
        series = []
        for entry, label in {"base": BASE, **labels}.items():
            rows = [
                each
                for each in standings["figures"]
                if (each["entry"], each["test"], each["step"]) == (entry, test, "last")
            ]
            rows.sort(key=lambda each: each["k"])
            if rows:
                x, y = tuple(float(each["k"]) for each in rows), tuple(float(each["mean"]) for each in rows)
                series.append(Series(label, x, y, marks=True, color=colors[entry]))
        if series:
            chart = Chart("k", f"pass@k on {test}", tuple(series), percent=True, log_x=True)
            yield Figure(f"tries-{number_of}", f"pass@k: {test}", TRIES, {"": chart}, "evaluation")


def demo_table(folder: Path) -> Table:
    """Held-out pass@1 and pass@8 by difficulty, a column per policy."""
    path = folder / "demo.json"
    found = schemas.check(schemas.DEMO, read_object(path), str(path))
    levels = list(next(iter(found.values()), {}))
    names = list(dict.fromkeys(name for rows in found.values() for row in rows.values() for name in row))
    rows = [
        [level, *(" / ".join(number(policy[level][name], True) for name in names) for policy in found.values())]
        for level in levels
    ]
    note = f"{' / '.join(names)} on held-out problems, by the number of operations; the same budget for every method."
    return table("Held-out problems solved", ["operations", *found], rows, note)
