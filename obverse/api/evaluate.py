"""`obverse.evaluate`: sample models on held-out problems. Torch is imported once the options are valid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from obverse.config.eval import EvalConfig
from obverse.config.resolve import read
from obverse.config.sources import arguments
from obverse.data.benchmarks import find as find_benchmark
from obverse.lazy_import import load
from obverse.python_files import read_once
from obverse.runtime.callbacks import Watcher

if TYPE_CHECKING:
    from obverse.evaluation.report import Report

SEE_HELP = "see 'obverse eval --help'"


@read_once()
def evaluate(model: str | Path, *, watcher: Watcher | None = None, **options: Any) -> list[Report]:
    """Evaluate a model, as `obverse eval` does, and return a report per benchmark, or one for a dataset.

    Args:
        model: A run folder, a checkpoint, a transformers directory, an adapter, a hub name or `"embedded"`.
        watcher: Receives progress and notes (`obverse.cli.progress_panel.Panel` prints them). None: silent.
        options: The options of `obverse eval --help`, such as `benchmarks`, `dataset`, `k`, `num_generations`.

    Raises:
        ConfigError: For options that are unknown or out of bounds, one line each. Other errors: obverse.errors.

    Example:
        (report,) = obverse.evaluate("runs/hpt-1", dataset="arithmetic:4-6", k=(1, 8))
        report.pass_at(1)
    """
    config = read(EvalConfig, [arguments({"model": model, **options})], SEE_HELP)
    check_benchmarks(config)
    reports: list[Report] = load("obverse.evaluation.evaluate:evaluate_each")(config, watcher)
    return reports


def check_benchmarks(config: EvalConfig) -> None:
    """Raise ConfigError, with the nearest name, for a benchmark that does not exist."""
    for name in config.benchmarks or ():
        find_benchmark(name)
