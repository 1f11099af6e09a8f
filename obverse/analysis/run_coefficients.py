"""The coefficient of every token of a step of a run, from its stored samples and a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from obverse.analysis.coefficients import weighed_tables
from obverse.analysis.context import NamedMethod, check, chosen_methods, with_run_options
from obverse.config.analyze import CoefficientsConfig
from obverse.estimator.schedule import as_schedule
from obverse.methods import build
from obverse.runtime.callbacks import Silent


def weigh_step(method_name: str, run: Path, step: int, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The coefficients of a method on the stored samples of a run's step, and a sentence about their policy.

    Without `options` the run's own method has the options of the run, any other those of its paper. Every stage of a
    training schedule makes an update of its own: the rows of a sample are repeated, with the stage as `method`.
    Raises DataError for a step without samples, ConfigError for a method that needs more than a model and its data.
    """
    config = with_run_options(CoefficientsConfig(model=str(run), step=step, methods=(method_name,)))
    if options:
        stages = as_schedule(build(method_name, options)).methods
        methods = [NamedMethod(f"{method_name}, stage {number}", stage) for number, stage in enumerate(stages)]
        methods = [NamedMethod(method_name, stages[0])] if len(stages) == 1 else methods
        for named in methods:
            check(named)
    else:
        methods = chosen_methods(config)
    tables, context, about = weighed_tables(config, methods, Silent())
    samples = []
    for name, table in tables.items():
        lengths = [len(sample.ids) for _, sample in table.samples]
        pieces = zip(table.samples, table.total().split(lengths), table.trained.split(lengths), strict=True)
        for (problem, sample), values, trained in pieces:
            samples.append(
                {
                    "problem": problem.id,
                    "kind": sample.kind,
                    "reward": sample.reward,
                    "kept": bool(trained.any()),
                    "coefficient": values.tolist(),
                    "tokens": [context.tokenizer.decode([token]) for token in sample.ids],
                    "source": [source.label for source in sample.sources],
                    **({"method": name} if len(tables) > 1 else {}),
                }
            )
    return {"method": method_name, "options": dict(options or {}), "samples": samples, "about": about}
