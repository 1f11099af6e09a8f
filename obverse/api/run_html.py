"""A run and its report as notebooks show them."""

from __future__ import annotations

from html import escape
from itertools import islice
from pathlib import Path, PosixPath

from obverse.api.run import Run
from obverse.config.commands import ReportConfig
from obverse.notebook_html import block, paragraph, table, text
from obverse.report.figures import curves_of
from obverse.report.load_runs import read_run
from obverse.report.svg_chart import STYLE, draw
from obverse.report.tables import with_interval
from obverse.report.write import report

NUM_CHARTS = 2
HEIGHT = 720  # of a report inside a notebook, in pixels


class ReportPath(PosixPath):
    """The path of report.html, which a notebook shows as the page."""

    def _repr_html_(self) -> str:
        page = escape(self.read_text(encoding="utf-8"), quote=True)
        style = "border:1px solid #8888;box-sizing:border-box"
        return f'<iframe srcdoc="{page}" width="100%" height="{HEIGHT}" style="{style}"></iframe>'


def write_report(folder: Path) -> ReportPath:
    """Write report.html into a run folder; returns its path."""
    return ReportPath(report(ReportConfig(run=folder))[0])


def html_of(run: Run) -> str:
    """A run's method, folder and step, its first curves and its last evaluation."""
    data = read_run(run.folder)
    parts = [paragraph(f"<b>{text(run.method)}</b> in {text(run.folder)}, step {run.step}, {text(run.state)}")]
    if data.rows:
        figures = islice(curves_of(data), NUM_CHARTS)
        charts = [f"<div>{text(figure.title)}{draw(figure.chart('steps'), figure.title)}</div>" for figure in figures]
        parts.append(f'<div class="charts">{"".join(charts)}</div>')
    if data.evals:
        step, summary = max(data.evals.items())
        rows = [[level, row.get("problems"), with_interval(row)] for level, row in summary.items()]
        parts += [paragraph(f"held-out problems after step {step}"), table(("difficulty", "problems", "correct"), rows)]
    return block(*parts, style=STYLE.replace(".chart ", ".obverse .chart "))
