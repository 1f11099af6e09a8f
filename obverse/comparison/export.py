"""Formats of a comparison's table: JSON, Markdown, CSV, LaTeX and console. No figure is computed here."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from obverse.comparison.plan import BASE
from obverse.comparison.run_trial import STEPS
from obverse.comparison.standings import Figure, Row, Standings
from obverse.runtime.integrity import add_seal
from obverse.runtime.run_dir import RunFolder

MARKS = {"better": "+", "worse": "-", "not distinguishable": "=", "best baseline": "b", "": ""}
LEGEND = (
    "Percent, with the 95 % interval over problems and seeds. b: the best baseline of a column; the others are "
    "compared with it, problem by problem and seed by seed: + better, - worse, = not distinguishable."
)
TITLES = {
    "last": "last step",
    "best": "best step, chosen by validation",
}
_TEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}"}


def write(standings: Standings, root: Path) -> None:
    """Write standings.json, .md, .csv and .tex into the comparison's folder."""
    folder = RunFolder(root)
    folder.write_json("standings.json", add_seal({"schema": 2, **asdict(standings)}))
    folder.write_text("standings.md", markdown(standings))
    folder.write_text("standings.csv", as_csv(standings))
    folder.write_text("standings.tex", latex(standings))


def markdown(standings: Standings, links: bool = True, sentences: bool = True) -> str:
    """Markdown of both tables and the runs; `sentences` adds comparisons with the baseline, `links` adds links."""
    lines = [f"{about(standings)}", "", LEGEND, ""]
    for step in STEPS:
        for k in standings.k:
            lines += [f"**pass@{k}, {TITLES[step]}**", "", *_markdown_table(standings, step, k, links), ""]
    if sentences:
        lines += ["**Against the best baseline**", "", *(f"- {line}" for line in notes(standings)), ""]
    lines += ["**Runs**", "", *_runs(standings, links)]
    return "\n".join(lines) + "\n"


def about(standings: Standings) -> str:
    """A sentence about the conditions that are equal for every row."""
    tests = ", ".join(
        f"{test['name']} ({test['dataset']}{'' if test['split'] == 'heldout' else ' ' + test['split']}, "
        f"{test['problems']} problems)"
        for test in standings.tests
    )
    teacher = ""
    if standings.teacher_cost is not None:
        teacher = (
            f", of which {standings.teacher_cost:,} were spent on the teacher before the runs of methods that read it"
        )
    return (
        f"Budget of each run: {standings.budget:,} {standings.budget_in}{teacher}. {len(standings.seeds)} "
        f"{'seed' if len(standings.seeds) == 1 else 'seeds'}, "
        f"{standings.num_samples} samples per test problem. Tests: {tests}."
    )


def _markdown_table(standings: Standings, step: str, k: int, links: bool) -> Iterator[str]:
    yield f"| method | {' | '.join(standings.columns)} |"
    yield "|---" * (len(standings.columns) + 1) + "|"
    for entry in rows(standings):
        cells = []
        for test in standings.columns:
            figure = standings.figure(entry, step, test, k)
            number = f"{100 * figure.mean:.1f}" if figure else "failed"
            if figure and links and figure.samples:
                number = f"[{number}]({figure.samples})"
            cells.append(f"{number} {_span(figure)} {MARKS[figure.verdict]}".strip() if figure else number)
        label = standings.label(entry)
        yield f"| {f'[{label}](runs/{entry})' if links and entry != BASE else label} | {' | '.join(cells)} |"


def _span(figure: Figure) -> str:
    return f"({100 * figure.low:.1f} to {100 * figure.high:.1f})"


def rows(standings: Standings) -> list[str]:
    """The names of the rows: the model before training, then the entries in the given order."""
    return [BASE, *(row.entry for row in standings.entries)]


def notes(standings: Standings, columns: Callable[[str], bool] | None = None) -> list[str]:
    """A sentence per entry, step and column of the main figures: the difference from the best baseline."""
    lines = []
    for figure in standings.figures:
        if figure.baseline is None or figure.entry == BASE or (columns is not None and not columns(figure.test)):
            continue
        lines.append(
            f"{standings.label(figure.entry)} against {standings.label(figure.baseline)}, {figure.test}, "
            f"{figure.step} step: "
            f"{_points(figure.difference)} points ({_points(figure.difference_low)} to "
            f"{_points(figure.difference_high)}), {figure.verdict}"
        )
    return lines


def _points(fraction: float | None) -> str:
    """In percent, signed; zero is +0.0, never -0.0."""
    return f"{round(100 * (fraction or 0.0), 1) + 0.0:+.1f}"


def _runs(standings: Standings, links: bool) -> Iterator[str]:
    yield "| method | learning rate | steps | best steps | tokens | TFLOP | seconds | cost of choosing the rate |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in standings.entries:
        label = f"[{row.label}](runs/{row.entry})" if links else row.label
        best, seconds = ", ".join(map(str, row.best_steps)), _range([round(value) for value in row.seconds])
        cells = [label, f"{row.rate:g}", _range(row.steps), best, _range(row.num_tokens)]
        yield f"| {' | '.join(cells)} | {max(row.flops) / 1e12:,.3g} | {seconds} | {cost(row)} |"
        for failure in row.failed:
            yield f"| {row.label}: failed | {failure} | | | | | | |"


def cost(row: Row) -> str:
    """`3 runs, 1,203,400 tokens, 120 s (0.0001: 40.1, 0.001: 3.2)`, with a note if the best rate is at the edge."""
    if not row.grid:
        return "none"
    scores = ", ".join(f"{trial['rate']:g}: {100 * trial['score']:.1f}" for trial in row.grid)
    tokens, seconds = sum(trial["num_tokens"] for trial in row.grid), sum(trial["seconds"] for trial in row.grid)
    bounds = {min(trial["rate"] for trial in row.grid), max(trial["rate"] for trial in row.grid)}
    at_edge = "; the best is at the edge" if row.rate in bounds else ""
    return f"{len(row.grid)} runs, {tokens:,.0f} tokens, {seconds:.0f} s ({scores}{at_edge})"


def _range(values: list[int]) -> str:
    return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"


def as_csv(standings: Standings) -> str:
    """CSV with a line per figure."""
    text = io.StringIO()
    names = [field.name for field in fields(Figure)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", *names])
    for figure in standings.figures:
        writer.writerow(map(plain, [standings.label(figure.entry), *(getattr(figure, name) for name in names)]))
    return text.getvalue()


def plain(value: object) -> object:
    """A cell that spreadsheets do not evaluate: text that begins like a formula gets a leading quotation mark."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def latex(standings: Standings) -> str:
    """A LaTeX tabular per step, of the first k."""
    lines = [f"% {about(standings)}", f"% {LEGEND}"]
    for step in STEPS:
        lines += [
            f"% pass@{standings.k[0]}, {TITLES[step]}",
            rf"\begin{{tabular}}{{l{'r' * len(standings.columns)}}}",
            r"\hline",
            " & ".join(["method", *map(_tex, standings.columns)]) + r" \\",
            r"\hline",
        ]
        for entry in rows(standings):
            figures = [standings.figure(entry, step, test, standings.k[0]) for test in standings.columns]
            cells = [
                rf"${100 * f.mean:.1f}_{{{100 * f.low:.1f}}}^{{{100 * f.high:.1f}}}${MARKS[f.verdict]}" if f else "--"
                for f in figures
            ]
            lines.append(" & ".join([_tex(standings.label(entry)), *cells]) + r" \\")
        lines += [r"\hline", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _narrow(figure: Figure) -> str:
    return f"{100 * figure.low:.0f} to {100 * figure.high:.0f}"


def _tex(text: str) -> str:
    return "".join(_TEX.get(char, char) for char in text)


def console_table(standings: Standings) -> RenderableType:
    """Both tables of the first k, for a console."""
    parts: list[RenderableType] = [Text(about(standings))]
    for step in STEPS:
        grid = Table(title=f"pass@{standings.k[0]}, {TITLES[step]}", title_justify="left")
        grid.add_column("method")
        for name in standings.columns:
            grid.add_column(name, justify="right")
        for entry in rows(standings):
            figures = [standings.figure(entry, step, test, standings.k[0]) for test in standings.columns]
            cells = [f"{100 * f.mean:.1f} {MARKS[f.verdict] or ' '}\n{_narrow(f)}" if f else "failed" for f in figures]
            grid.add_row(standings.label(entry), *cells)
        parts.append(grid)
    return Group(*parts, Text(LEGEND, style="dim"))
