"""`obverse.compare`: train by several methods at one budget. Torch is imported once the options are valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from obverse.api.input_files import Dataset, inputs_of
from obverse.api.method_source import NamedMethod, method_of
from obverse.api.reward_source import Reward
from obverse.api.run import Run
from obverse.api.table import Table
from obverse.comparison.plan import Plan, make_plan
from obverse.config.compare import CompareConfig
from obverse.config.resolve import read
from obverse.config.sources import arguments
from obverse.lazy_import import load
from obverse.methods import MakeMethod
from obverse.notebook_html import block, paragraph, table, text
from obverse.python_files import read_once
from obverse.report.load_runs import STANDINGS, read_standings
from obverse.runtime.callbacks import Silent, Watcher
from obverse.runtime.output_dir import free_folder, slug

if TYPE_CHECKING:
    from obverse.report.schemas import Standings

SEE_HELP = "see 'obverse compare --help'"
BASE = "base"  # the entry of the model before training
COLUMNS = (
    "method",
    "test",
    "step",
    "k",
    "mean",
    "low",
    "high",
    "verdict",
    "baseline",
    "difference",
    "difference_low",
    "difference_high",
)


@dataclass(frozen=True)
class Comparison:
    """A comparison's folder, its standings (None if a signal stopped it), and the exit code (0, or 130 or 143)."""

    folder: Path
    standings: Standings | None
    exit_code: int = 0

    @property
    def table(self) -> Table:
        """The figures of standings.json, a row each; empty for a comparison that was stopped.

        `mean` is pass@`k` of `method` on `test` at the `last` or the `best` step, `low` and `high` its 95 % interval
        over problems and seeds. At the first k, `verdict` compares it with `baseline`, the best method that trains
        on one source (better, worse, not distinguishable, or best baseline), and `difference`, with its interval
        `difference_low` to `difference_high`, by how much.
        """
        if self.standings is None:
            return Table([], "comparison")
        labels, rows = self.labels, []
        for figure in self.standings["figures"]:
            row: dict[str, Any] = {**figure, "method": labels.get(figure["entry"], figure["entry"])}
            row["baseline"] = labels.get(str(row.get("baseline")), row.get("baseline"))
            rows.append({name: row.get(name) for name in COLUMNS})
        return Table(rows, "comparison")

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of the methods, by the names of their folders."""
        entries = self.standings["entries"] if self.standings is not None else []
        return {BASE: BASE, **{entry["entry"]: entry["label"] for entry in entries}}

    @property
    def runs(self) -> Mapping[str, Sequence[Run]]:
        """The runs of each method, by its label, in the order of their seeds."""
        folders = sorted((self.folder / "runs").glob("*/seed-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        runs: dict[str, list[Run]] = {label: [] for name, label in self.labels.items() if name != BASE}
        for folder in folders:
            if (folder / "config.yaml").is_file():
                name = folder.parent.name
                runs.setdefault(self.labels.get(name, name), []).append(Run(folder))
        return runs

    def to_pandas(self) -> Any:
        """Return `table` as a pandas.DataFrame. Raises ConfigError if pandas is not installed."""
        return self.table.to_pandas()

    def __repr__(self) -> str:
        state = "stopped" if self.standings is None else f"{len(self.standings['entries'])} methods"
        return f"<Comparison {self.folder}: {state}>"

    def _repr_html_(self) -> str:
        if self.standings is None:
            return block(paragraph(f"comparison in {text(self.folder)}, stopped: the same call continues it"))
        k, tests = self.standings["k"][0], self.standings["columns"]
        cells = {
            (row["method"], row["test"]): f"{row['mean']:.1%} ({row['low']:.1%} to {row['high']:.1%})\n"
            f"{row['verdict'] or ''}"
            for row in self.table
            if row["step"] == "last" and row["k"] == k
        }
        methods = dict.fromkeys(method for method, _ in cells)
        rows = [[method, *(cells.get((method, test)) for test in tests)] for method in methods]
        budget = f"{self.standings['budget']:g} {self.standings['budget_in']}"
        about = f"pass@{k} at the last step, with 95 % intervals, at a budget of {budget}; {self.folder}"
        return block(table(["method", *tests], rows), paragraph(text(about), is_soft=True))


@read_once()
def compare(
    methods: Sequence[str | MakeMethod],
    *,
    dataset: Dataset | None = None,
    reward: Reward | Sequence[Reward] | None = None,
    watcher: Watcher | None = None,
    **options: Any,
) -> Comparison:
    """Train by several methods at one budget, as `obverse compare` does, and return the table.

    Args:
        methods: Names, functions as of `obverse.train`, or `"file.py:function"`; a name may have options of its own:
            `"hpt,gate=1"`.
        dataset: As of `obverse.train`: a name, a path or rows.
        reward: As of `obverse.train`: grades all rows in place of their own verifiers.
        watcher: Receives notes on the report that is written in the end. None: silent.
        options: The options of `obverse compare --help`; `budget` is required.

    Raises:
        ConfigError: For options that are unknown or out of bounds, one line each. Other errors: obverse.errors.

    Example:
        comparison = obverse.compare(["sft", "hpt,gate=1"], dataset="arithmetic:1-6", budget="2M", seeds=3)
        comparison.table.to_pandas()
    """
    inputs, given = inputs_of({"dataset": dataset, "reward": reward, **options})
    named = [method_of(method) if callable(method) else method for method in methods]
    inputs = replace(inputs, methods=[entry.file for entry in named if isinstance(entry, NamedMethod) and entry.file])

    def configured(folder: Path | None) -> CompareConfig:
        output_dir = {} if folder is None else {"output_dir": folder}
        names = [entry if isinstance(entry, str) else entry.placed(folder).name for entry in named]
        layer = arguments({**given, "methods": tuple(names), **inputs.options(folder), **output_dir})
        return read(CompareConfig, [layer], SEE_HELP)

    config = configured(None)
    if not inputs.files:
        return compare_and_report(config, Console(quiet=True), watcher or Silent())
    folder = config.output_dir or free_folder(Path("runs"), f"compare-{slug(config.dataset)}")
    with inputs.stored(folder):
        return compare_and_report(configured(folder), Console(quiet=True), watcher or Silent())


def compare_and_report(config: CompareConfig, console: Console, watcher: Watcher) -> Comparison:
    """Run the remaining trials of a comparison, then write report.html into its folder if the options ask for it."""
    return run_and_report(make_plan(config), console, watcher)  # wrong options are refused before torch is imported


def run_and_report(plan: Plan, console: Console, watcher: Watcher) -> Comparison:
    """Run a plan's remaining trials, then write report.html into its folder if the options ask for it."""
    plan = load("obverse.comparison.run:reserve_folder")(plan)
    code = int(load("obverse.comparison.run:compare")(plan, console))
    if code:
        return Comparison(plan.root, None, code)
    if plan.config.report:
        load("obverse.report.write:report_after_run")(plan.root, watcher)
    return Comparison(plan.root, read_standings(plan.root / STANDINGS))
