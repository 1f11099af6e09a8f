"""The table of a comparison as JSON, Markdown, CSV, LaTeX and for a console. They print; they compute nothing."""

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
    "Percent, with the 95 % interval over problems and seeds. b: the best baseline of a column; the others are held "
    "against it, problem by problem and seed by seed: + better, - worse, = not distinguishable."
)
TITLES = {
    "last": "last step",
    "best": "best step, chosen by validation",
}
_TEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}"}


def write(found: Standings, root: Path) -> None:
    """Write standings.json, .md, .csv and .tex into the comparison's folder."""
    folder = RunFolder(root)
    folder.write_json("standings.json", add_seal({"schema": 2, **asdict(found)}))
    folder.write_text("standings.md", markdown(found))
    folder.write_text("standings.csv", as_csv(found))
    folder.write_text("standings.tex", latex(found))


def markdown(found: Standings, links: bool = True, sentences: bool = True) -> str:
    """Both tables, `sentences` on each method against the best baseline, the runs; `links` lead to the samples."""
    lines = [f"{about(found)}", "", LEGEND, ""]
    for step in STEPS:
        for k in found.k:
            lines += [f"**pass@{k}, {TITLES[step]}**", "", *_markdown_table(found, step, k, links), ""]
    if sentences:
        lines += ["**Against the best baseline**", "", *(f"- {line}" for line in notes(found)), ""]
    lines += ["**Runs**", "", *_runs(found, links)]
    return "\n".join(lines) + "\n"


def about(found: Standings) -> str:
    """The conditions that hold for every row."""
    tests = ", ".join(
        f"{test['name']} ({test['dataset']}{'' if test['split'] == 'heldout' else ' ' + test['split']}, "
        f"{test['problems']} problems)"
        for test in found.tests
    )
    return (
        f"Budget of each run: {found.budget:,} {found.budget_in}. {len(found.seeds)} "
        f"{'seed' if len(found.seeds) == 1 else 'seeds'}, "
        f"{found.num_samples} samples per test problem. Tests: {tests}."
    )


def _markdown_table(found: Standings, step: str, k: int, links: bool) -> Iterator[str]:
    yield f"| method | {' | '.join(found.columns)} |"
    yield "|---" * (len(found.columns) + 1) + "|"
    for entry in rows(found):
        cells = []
        for test in found.columns:
            figure = found.figure(entry, step, test, k)
            number = f"{100 * figure.mean:.1f}" if figure else "failed"
            if figure and links and figure.samples:
                number = f"[{number}]({figure.samples})"
            cells.append(f"{number} {_span(figure)} {MARKS[figure.verdict]}".strip() if figure else number)
        label = found.label(entry)
        yield f"| {f'[{label}](runs/{entry})' if links and entry != BASE else label} | {' | '.join(cells)} |"


def _span(figure: Figure) -> str:
    return f"({100 * figure.low:.1f} to {100 * figure.high:.1f})"


def rows(found: Standings) -> list[str]:
    """The names of the rows: the model before training, then the entries as they were given."""
    return [BASE, *(row.entry for row in found.entries)]


def notes(found: Standings, columns: Callable[[str], bool] | None = None) -> list[str]:
    """A sentence per entry, step and column of the main figures: the difference from the best baseline."""
    lines = []
    for figure in found.figures:
        if figure.baseline is None or figure.entry == BASE or (columns is not None and not columns(figure.test)):
            continue
        lines.append(
            f"{found.label(figure.entry)} against {found.label(figure.baseline)}, {figure.test}, {figure.step} step: "
            f"{_points(figure.difference)} points ({_points(figure.difference_low)} to "
            f"{_points(figure.difference_high)}), {figure.verdict}"
        )
    return lines


def _points(share: float | None) -> str:
    """In percent, signed; nothing is +0.0, never -0.0."""
    return f"{round(100 * (share or 0.0), 1) + 0.0:+.1f}"


def _runs(found: Standings, links: bool) -> Iterator[str]:
    yield "| method | learning rate | steps | best steps | tokens | TFLOP | seconds | cost of choosing the rate |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in found.entries:
        label = f"[{row.label}](runs/{row.entry})" if links else row.label
        best, seconds = ", ".join(map(str, row.best_steps)), _range([round(each) for each in row.seconds])
        cells = [label, f"{row.rate:g}", _range(row.steps), best, _range(row.num_tokens)]
        yield f"| {' | '.join(cells)} | {max(row.flops) / 1e12:,.3g} | {seconds} | {cost(row)} |"
        for failure in row.failed:
            yield f"| {row.label}: failed | {failure} | | | | | | |"


def cost(row: Row) -> str:
    """`3 runs, 1,203,400 tokens, 120 s (0.0001: 40.1, 0.001: 3.2)`, and whether the best of them is the outermost."""
    if not row.grid:
        return "none"
    tried = ", ".join(f"{each['rate']:g}: {100 * each['score']:.1f}" for each in row.grid)
    tokens, seconds = sum(each["num_tokens"] for each in row.grid), sum(each["seconds"] for each in row.grid)
    edges = {min(each["rate"] for each in row.grid), max(each["rate"] for each in row.grid)}
    beyond = "; the best is at the edge" if row.rate in edges else ""
    return f"{len(row.grid)} runs, {tokens:,.0f} tokens, {seconds:.0f} s ({tried}{beyond})"


def _range(values: list[int]) -> str:
    return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"


def as_csv(found: Standings) -> str:
    """A line per figure, all of them."""
    text = io.StringIO()
    names = [field.name for field in fields(Figure)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", *names])
    for figure in found.figures:
        writer.writerow(map(plain, [found.label(figure.entry), *(getattr(figure, name) for name in names)]))
    return text.getvalue()


def plain(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: text that begins like one gets a quotation mark before it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def latex(found: Standings) -> str:
    """A tabular for each step, of the first k, for a paper."""
    lines = [f"% {about(found)}", f"% {LEGEND}"]
    for step in STEPS:
        lines += [
            f"% pass@{found.k[0]}, {TITLES[step]}",
            rf"\begin{{tabular}}{{l{'r' * len(found.columns)}}}",
            r"\hline",
            " & ".join(["method", *map(_tex, found.columns)]) + r" \\",
            r"\hline",
        ]
        for entry in rows(found):
            figures = [found.figure(entry, step, test, found.k[0]) for test in found.columns]
            cells = [
                rf"${100 * f.mean:.1f}_{{{100 * f.low:.1f}}}^{{{100 * f.high:.1f}}}${MARKS[f.verdict]}" if f else "--"
                for f in figures
            ]
            lines.append(" & ".join([_tex(found.label(entry)), *cells]) + r" \\")
        lines += [r"\hline", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _narrow(figure: Figure) -> str:
    return f"{100 * figure.low:.0f} to {100 * figure.high:.0f}"


def _tex(text: str) -> str:
    return "".join(_TEX.get(char, char) for char in text)


def table(found: Standings) -> RenderableType:
    """Both tables of the first k for a console."""
    parts: list[RenderableType] = [Text(about(found))]
    for step in STEPS:
        made = Table(title=f"pass@{found.k[0]}, {TITLES[step]}", title_justify="left")
        made.add_column("method")
        for name in found.columns:
            made.add_column(name, justify="right")
        for entry in rows(found):
            figures = [found.figure(entry, step, test, found.k[0]) for test in found.columns]
            cells = [f"{100 * f.mean:.1f} {MARKS[f.verdict] or ' '}\n{_narrow(f)}" if f else "failed" for f in figures]
            made.add_row(found.label(entry), *cells)
        parts.append(made)
    return Group(*parts, Text(LEGEND, style="dim"))
