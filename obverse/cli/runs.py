"""`obverse runs`: the run folders below a folder, with step, last figures and state. No torch here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table
from rich.text import Text

from obverse.cli.commands import COMMANDS, Words
from obverse.cli.parser import print_help, scan
from obverse.cli.results_console import results_console
from obverse.config.commands import RunsConfig
from obverse.config.sources import COMMAND_LINE, Layer
from obverse.errors import ConfigError
from obverse.redact import flat
from obverse.runtime.run_summary import RunSummary, find_runs, summarize

STYLES = {"running": "green", "finished": "", "stopped": "yellow", "failed": "red", "damaged": "red"}
UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def run(words: Words) -> int:
    """`obverse runs [FOLDER] [--json]`; a folder that is no folder is a ConfigError."""
    scanned = scan([word for word in words if word != "--json"], RunsConfig)
    options, problems = Layer(COMMAND_LINE, scanned.given).cleaned(RunsConfig, "see 'obverse runs --help'")
    folders = [*scanned.take(1), *(str(value) for value in options.values.values())]
    if problems := [*scanned.problems, *problems]:
        raise ConfigError("\n".join(problems))
    root = RunsConfig(folder=Path(folders[0])).folder if folders else RunsConfig().folder
    if folders and not root.is_dir():
        raise ConfigError(f"runs: {root} is not a folder")
    rows = [summarize(folder) for folder in find_runs(root)]
    rows.sort(key=lambda row: row.seconds if row.seconds is not None else float("inf"))
    if "--json" in words:
        print(json.dumps([{**asdict(row), "folder": str(row.folder)} for row in rows], indent=2))
    elif rows:
        results_console().print(table(rows, root))
    else:
        print(flat(f"no runs below {root}: name another folder, or start a run with obverse train"))
    return 0


def show_help(words: Words) -> None:
    command, notes = COMMANDS["runs"], ["--json: the same for programs."]
    print_help(f"obverse {command.usage}", command.summary, RunsConfig, notes)


def table(rows: Sequence[RunSummary], root: Path) -> Table:
    """A row per run, the one with the newest step first."""
    grid = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for title in ("run", "method", "model"):
        grid.add_column(title, overflow="fold")
    for title in ("step", "reward", "acc or nll", "pass@1", "age"):
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("state", overflow="fold")
    for row in rows:
        texts = [name(row.folder, root), row.method or "", short(row.model or ""), step(row), number(row.reward)]
        texts += [fit(row), "" if row.held_out is None else f"{row.held_out:.1%}", age(row.seconds)]
        state = Text(flat(f"{row.state}{f': {row.detail}' if row.detail else ''}"), style=STYLES[row.state])
        grid.add_row(*(Text(flat(text)) for text in texts), state)
    return grid


def name(folder: Path, root: Path) -> str:
    """The folder below the one that was searched, or its whole path where that is the run itself."""
    return str(folder) if folder == root else str(folder.relative_to(root))


def short(model: str) -> str:
    """The last part of a model's name or path."""
    return model.rstrip("/").rpartition("/")[2] or model


def step(row: RunSummary) -> str:
    return "" if row.step is None else f"{row.step:,}" + ("" if row.total is None else f"/{row.total:,}")


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def fit(row: RunSummary) -> str:
    """The share of right completions, or the negative log-likelihood of demonstrations of a run without completions."""
    return f"{row.accuracy:.1%}" if row.accuracy is not None else number(row.nll)


def age(seconds: float | None) -> str:
    """`3 min`, `2 d`: the time since the last step in its largest unit."""
    if seconds is None:
        return ""
    size, unit = next(((size, unit) for size, unit in UNITS if seconds >= size), UNITS[-1])
    return f"{int(seconds // size)} {unit}"
