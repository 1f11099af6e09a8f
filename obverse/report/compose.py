"""What the page of one run or of several runs contains: its texts, tables, figures and completions."""

from __future__ import annotations

import os.path
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from obverse.config.commands import ReportConfig
from obverse.report.analyses import FOLDER as ANALYSIS
from obverse.report.analyses import analysis_sections
from obverse.report.completions import Picked, pick
from obverse.report.evaluations import evaluation_figures, measured, measured_tries
from obverse.report.figures import Figure, compared, curves_of, gate_of, trained_of
from obverse.report.load_runs import STANDINGS, RunData, arms, entry_labels, is_run
from obverse.report.page import Page, Section
from obverse.report.standings import demo_table, standings_figures, standings_tables
from obverse.report.tables import Table, arms_table, headline, runs_table, settings
from obverse.report.teacher import by_position

NAME = "report.html"
MEGABYTE = 1_000_000
TEACHER_INTRO = (
    "A teacher scored the rollouts of this run. Where log pi_T - log pi of a token is above 0, the teacher finds the "
    "token likelier than the policy that sampled it. The completions below are shaded by it."
)


def page_of(config: ReportConfig, runs: Sequence[RunData], target: Path) -> Page:
    """The page of the runs in `config.run`; links in it are relative to `target`, the file it is written to."""
    is_single_run = is_run(config.run)
    labels = entry_labels(config.run)
    runs_by_arm = arms(runs, labels)
    most_bytes = int(config.megabytes * MEGABYTE / len(runs))
    picked = [pick(run, number, most_bytes) for number, run in enumerate(runs)]
    if is_single_run:
        curves = [*gate_of(runs[0]), *trained_of(runs[0], picked[0].trained), *curves_of(runs[0])]
    else:
        curves = list(compared(runs_by_arm))
    held_out = list(evaluation_figures(runs_by_arm))
    return Page(
        title=config.run.resolve().name,
        subtitle=subtitle(runs),
        lines=list(lines(config.run, runs)),
        headline=list(headline(runs[0]) if is_single_run else tables_of(config.run, runs_by_arm, target)),
        curves=[*(figure for figure in held_out if figure.section == "curves"), *curves],
        sections=[*teacher_section(picked), *sections(config.run, runs, held_out)],
        settings=list(settings(runs)),
        runs=[str(run.path.relative_to(config.run)) for run in runs],
        picked=picked,
        axis=config.axis,
    )


def tables_of(folder: Path, runs_by_arm: Mapping[str, Sequence[RunData]], target: Path) -> Iterator[Table]:
    """The tables of several runs: a comparison's standings or a demo's figures where there are any, and the runs."""
    if (folder / STANDINGS).is_file():
        pages = {members[0].path.parent.name: link(members[0].path, target) for members in runs_by_arm.values()}
        yield from standings_tables(folder, link(folder, target), pages)
    if (folder / "demo.json").is_file():
        yield demo_table(folder)
    yield arms_table(runs_by_arm)
    yield runs_table(
        {label: [(run, link(run.path, target)) for run in members] for label, members in runs_by_arm.items()}
    )


def subtitle(runs: Sequence[RunData]) -> str:
    methods = list(dict.fromkeys(run.method for run in runs))
    shared = [", ".join(dict.fromkeys(str(run.config.get(name, "?")) for run in runs)) for name in ("model", "dataset")]
    text = f"{', '.join(methods)}; model {shared[0]}; data {shared[1]}"
    return text if len(runs) == 1 else f"{len(runs)} runs: {text}"


def lines(folder: Path, runs: Sequence[RunData]) -> Iterator[str]:
    """Remarks for the top of the page: what is missing in the folder."""
    if not any(run.evals for run in runs):
        yield (
            "No held-out evaluation was made while training, so this page cannot tell learning from memorization: "
            "train with --eval_dataset and --eval_steps, or measure with obverse eval."
        )
    if not list((folder / ANALYSIS).glob("*.json")):
        yield (
            "Coefficients, shifts of token probabilities, gradients and coverage appear on this page once obverse "
            f"analyze has written them into {ANALYSIS}/ beside it."
        )


def teacher_section(picked: Sequence[Picked]) -> Iterator[Section]:
    """The section about the teacher of a single run, if its completions were scored by one."""
    figures = list(by_position(picked[0].gaps)) if len(picked) == 1 else []
    if figures:
        yield Section("teacher", "Teacher", TEACHER_INTRO, figures)


def sections(folder: Path, runs: Sequence[RunData], held_out: Sequence[Figure]) -> Iterator[Section]:
    """The sections between the curves and the completions: evaluations, then analyses."""
    figures = [*(figure for figure in held_out if figure.section == "evaluation"), *measured_tries(runs)]
    figures += standings_figures(folder) if (folder / STANDINGS).is_file() else ()
    tables = list(measured(runs))
    if figures or tables:
        yield Section("evaluation", "Evaluation", "On problems that were not trained on.", figures, tables)
    yield from analysis_sections(folder)


def link(folder: Path, target: Path) -> str:
    """The relative link from the page `target` to a folder, or to the report in it if there is one."""
    page = folder / NAME
    return quote(os.path.relpath(page if page.is_file() and page != target else folder, target.parent))
