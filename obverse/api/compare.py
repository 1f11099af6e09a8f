"""`obverse.compare`: train by several methods at one budget. Torch is imported once the options are valid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from obverse.config.compare import CompareConfig
from obverse.config.resolve import read
from obverse.config.sources import arguments
from obverse.lazy_import import load
from obverse.methods import MakeMethod, name_of
from obverse.python_files import read_once
from obverse.runtime.callbacks import Silent, Watcher

if TYPE_CHECKING:
    from obverse.report.schemas import Standings

SEE_HELP = "see 'obverse compare --help'"


@dataclass(frozen=True)
class Comparison:
    """A comparison's folder, its table (None if a signal stopped it), and the exit code (0, or 130 or 143)."""

    folder: Path
    standings: Standings | None
    exit_code: int = 0


@read_once()
def compare(methods: Sequence[str | MakeMethod], *, watcher: Watcher | None = None, **options: Any) -> Comparison:
    """Train by several methods at one budget, as `obverse compare` does, and return the table.

    Args:
        methods: Names, functions or `"file.py:function"`; a name may have options of its own: `"hpt,gate=1"`.
        watcher: Receives notes on the report that is written in the end. None: silent.
        options: The options of `obverse compare --help`; `budget` is required.

    Raises:
        ConfigError: For options that are unknown or out of bounds, one line each. Other errors: obverse.errors.

    Example:
        comparison = obverse.compare(["sft", "hpt,gate=1"], dataset="arithmetic:1-6", budget="2M", seeds=3)
        comparison.standings["entries"]
    """
    given = {"methods": tuple(map(name_of, methods)), **options}
    config = read(CompareConfig, [arguments(given)], SEE_HELP)
    return compare_and_report(config, Console(quiet=True), watcher or Silent())


def compare_and_report(config: CompareConfig, console: Console, watcher: Watcher) -> Comparison:
    """Run what is left of a comparison, then write report.html into its folder if the options ask for it."""
    plan = load("obverse.comparison.plan:make_plan")(config)  # refuses wrong options before torch is imported
    plan = load("obverse.comparison.run:reserve_folder")(plan)
    code = int(load("obverse.comparison.run:compare")(plan, console))
    if code:
        return Comparison(plan.root, None, code)
    if config.report:
        load("obverse.report.write:report_after_run")(plan.root, watcher)
    loads = load("obverse.report.load_runs:read_standings")
    return Comparison(plan.root, loads(plan.root / load("obverse.report.load_runs:STANDINGS")))
