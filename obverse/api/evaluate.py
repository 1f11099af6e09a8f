"""`obverse.evaluate`: sample models on held-out problems. Torch is imported once the options are valid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obverse.api.input_files import Dataset, inputs_of
from obverse.api.reward_source import Reward
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
def evaluate(
    model: str | Path,
    *,
    dataset: Dataset | None = None,
    reward: Reward | Sequence[Reward] | None = None,
    watcher: Watcher | None = None,
    **options: Any,
) -> list[Report]:
    """Evaluate a model, as `obverse eval` does, and return a report per benchmark, or one for a dataset.

    Args:
        model: A run folder, a checkpoint, a transformers directory, an adapter, a hub name or `"embedded"`.
        dataset: A name or path as of `--dataset`, or rows as of `obverse.train`. None: the benchmarks, or the problems
            that a run was or would be evaluated on.
        reward: As of `obverse.train`: grades all rows in place of their own verifiers.
        watcher: Receives progress and notes (`obverse.cli.progress_panel.Panel` prints them). None: silent.
        options: The options of `obverse eval --help`, such as `benchmarks`, `dataset`, `k`, `num_generations`.

    Raises:
        ConfigError: For options that are unknown or out of bounds, one line each. Other errors: obverse.errors.

    Example:
        (report,) = obverse.evaluate("runs/hpt-1", dataset="arithmetic:4-6", k=(1, 8))
        report.pass_at(1)
    """
    inputs, given = inputs_of({"dataset": dataset, "reward": reward, **options}, {"dataset": "eval"})

    def configured(folder: Path | None) -> EvalConfig:
        return read(EvalConfig, [arguments({"model": model, **given, **inputs.options(folder)})], SEE_HELP)

    config = configured(None)
    check_benchmarks(config)
    evaluate_each = load("obverse.evaluation.evaluate:evaluate_each")
    reports: list[Report]
    if inputs.files:
        folder = inputs_folder(config)
        with inputs.stored(folder):
            reports = evaluate_each(configured(folder), watcher)
    else:
        reports = evaluate_each(config, watcher)
    return reports


def inputs_folder(config: EvalConfig) -> Path:
    """The folder of the rows and functions of a call: `output`, the model's run folder, or ./evals."""
    model = Path(config.model).expanduser()
    run = next((folder for folder in (model, model.parent) if (folder / "config.yaml").is_file()), None)
    return config.output or run or Path("evals")


def check_benchmarks(config: EvalConfig) -> None:
    """Raise ConfigError, with the nearest name, for a benchmark that does not exist."""
    for name in config.benchmarks or ():
        find_benchmark(name)
