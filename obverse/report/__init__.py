"""`obverse report`: a run, or every run of a comparison, as one self-contained page that explains its figures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote as quoted
from urllib.parse import quote

from obverse.config.report import ReportConfig
from obverse.errors import DataError
from obverse.report.analyses import FOLDER as ANALYSIS
from obverse.report.analyses import analysis_sections
from obverse.report.completions import pick
from obverse.report.evaluations import evaluation_figures, measured, measured_tries
from obverse.report.figures import Figure, compared, curves_of, gate_of, trained_of
from obverse.report.load_runs import STANDINGS, RunData, arms, entries, find_runs, is_run
from obverse.report.page import Page, Section, render
from obverse.report.pictures import save_pictures
from obverse.report.standings import demo_table, standing_figures, standing_tables
from obverse.report.tables import Table, arms_table, headline, runs_table, settings
from obverse.runtime.callbacks import Watcher
from obverse.runtime.file_writes import storage_errors, write_atomically

NAME = "report.html"
MEGABYTE = 1_000_000


def report(config: ReportConfig) -> list[Path]:
    """Write the page, and with `figures` the pictures; returns what was written, the page first.

    Raises DataError where there is no run or a file of it is broken, StorageError where the page cannot be written.
    """
    target = config.output or config.run / NAME
    try:
        page = page_of(config, find_runs(config.run), target)
        text = render(page)
    except OSError as error:
        raise DataError(f"{error.filename or config.run} cannot be read: {error.strerror}") from None
    written = [write(target, text)]
    if config.figures is not None:
        figures = [*page.curves, *(figure for section in page.sections for figure in section.figures)]
        written += save_pictures(figures, page.axis, config.figures, config.format)
    return written


def afterwards(folder: Path, watcher: Watcher) -> None:
    """The page at the end of a run, which is done whatever happens here: a failure is told, and nothing more."""
    try:
        watcher.note(f"report: {report(ReportConfig(run=folder))[0]}")
    except Exception as error:  # noqa: BLE001 - a mistake in a page must not make a run a failure
        told = f"{type(error).__name__}: {error}"
        watcher.note(f"no report was written ({told}); the run is whole: try 'obverse report {quoted(str(folder))}'")


def write(target: Path, text: str) -> Path:
    """The whole file at once: a reader sees the old page or the new one."""
    with storage_errors(target, "choose --output"):
        return write_atomically(target, text.encode("utf-8", "backslashreplace"))


def page_of(config: ReportConfig, runs: Sequence[RunData], target: Path) -> Page:
    """What the page of these runs shows."""
    alone = is_run(config.run)
    labels = entries(config.run)
    found = arms(runs, labels)
    most = int(config.megabytes * MEGABYTE / len(runs))
    picked = [pick(run, number, most) for number, run in enumerate(runs)]
    if alone:
        curves = [*gate_of(runs[0]), *trained_of(runs[0], picked[0].trained), *curves_of(runs[0])]
    else:
        curves = list(compared(found))
    held_out = list(evaluation_figures(found))
    return Page(
        title=config.run.resolve().name,
        subtitle=subtitle(runs),
        lines=list(lines(config.run, runs)),
        headline=list(headline(runs[0]) if alone else tables_of(config.run, found, target)),
        curves=[*(each for each in held_out if each.section == "curves"), *curves],
        sections=list(sections(config.run, runs, held_out)),
        settings=list(settings(runs)),
        runs=[str(run.path.relative_to(config.run)) for run in runs],
        picked=picked,
        axis=config.axis,
    )


def tables_of(folder: Path, found: Mapping[str, Sequence[RunData]], target: Path) -> Iterator[Table]:
    """The tables of several runs: a comparison's standings or a demo's figures where there are any, and the runs."""
    if (folder / STANDINGS).is_file():
        pages = {members[0].path.parent.name: link(members[0].path, target) for members in found.values()}
        yield from standing_tables(folder, link(folder, target), pages)
    if (folder / "demo.json").is_file():
        yield demo_table(folder)
    yield arms_table(found)
    yield runs_table({label: [(run, link(run.path, target)) for run in members] for label, members in found.items()})


def subtitle(runs: Sequence[RunData]) -> str:
    methods = list(dict.fromkeys(run.method for run in runs))
    shared = [", ".join(dict.fromkeys(str(run.config.get(name, "?")) for run in runs)) for name in ("model", "dataset")]
    text = f"{', '.join(methods)}; model {shared[0]}; data {shared[1]}"
    return text if len(runs) == 1 else f"{len(runs)} runs: {text}"


def lines(folder: Path, runs: Sequence[RunData]) -> Iterator[str]:
    """What has to be said before any figure."""
    if not any(run.evals for run in runs):
        yield (
            "No held-out evaluation was made while training, so nothing here tells learning from memory: train with "
            "--eval_dataset and --eval_steps, or measure with obverse eval."
        )
    if not list((folder / ANALYSIS).glob("*.json")):
        yield (
            "Coefficients, shifts of token probabilities, gradients and coverage come onto this page once obverse "
            f"analyze has answered them into {ANALYSIS}/ beside it."
        )


def sections(folder: Path, runs: Sequence[RunData], held_out: Sequence[Figure]) -> Iterator[Section]:
    """What stands between the curves and the completions: evaluations, then analyses."""
    figures = [*(each for each in held_out if each.section == "evaluation"), *measured_tries(runs)]
    figures += standing_figures(folder) if (folder / STANDINGS).is_file() else ()
    tables = list(measured(runs))
    if figures or tables:
        yield Section("evaluation", "Evaluation", "On problems that were not trained on.", figures, tables)
    yield from analysis_sections(folder)


def link(place: Path, target: Path) -> str:
    """From the page to a folder, or to the page in it where it has one."""
    page = place / NAME
    return quote(os.path.relpath(page if page.is_file() and page != target else place, target.parent))
