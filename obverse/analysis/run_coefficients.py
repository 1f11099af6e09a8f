"""The coefficient of every token of a step of a run, from its stored samples and a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from obverse.analysis.coefficients import weighed_tables
from obverse.analysis.context import NamedMethod, check, chosen_methods, with_run_options
from obverse.config.analyze import CoefficientsConfig
from obverse.estimator.schedule import TrainingSchedule
from obverse.runtime.callbacks import Silent


def weigh_step(run: Path, step: int, name: str, schedule: TrainingSchedule | None = None) -> dict[str, Any]:
    """The coefficients of a method on the stored samples of a run's step, and a sentence about their policy.

    Without a `schedule` it is that of the method `name`: the run's method has the options of the run, another those
    of its paper. Every stage of a schedule makes an update: the rows of a sample are repeated, with the stage as
    `method`. A method with a divergence also has `divergence_coefficient`, the factor of its gradient.
    Raises DataError for a step without samples, ConfigError for a method that needs more than a model and its data.
    """
    methods = (name,) if schedule is None else None
    config = with_run_options(CoefficientsConfig(model=str(run), step=step, methods=methods))
    if schedule is None:
        chosen = chosen_methods(config)
    else:
        labels = [name] if len(schedule.methods) == 1 else [f"{name}, stage {n}" for n in range(len(schedule.methods))]
        chosen = [NamedMethod(*pair) for pair in zip(labels, schedule.methods, strict=True)]
        for named in chosen:
            check(named)
    tables, context, about = weighed_tables(config, chosen, Silent())
    samples = []
    for label, table in tables.items():
        lengths = [len(sample.ids) for _, sample in table.samples]
        columns = (table.total(), table.total("divergence"), table.trained)
        pieces = zip(table.samples, *(column.split(lengths) for column in columns), strict=True)
        for (problem, sample), values, of_divergence, trained in pieces:
            samples.append(
                {
                    "problem": problem.id,
                    "kind": sample.kind,
                    "reward": sample.reward,
                    "kept": bool(trained.any()),
                    "coefficient": values.tolist(),
                    **({"divergence_coefficient": of_divergence.tolist()} if "divergence" in table.streams else {}),
                    "tokens": [context.tokenizer.decode([token]) for token in sample.ids],
                    "source": [source.label for source in sample.sources],
                    **({"method": label} if len(tables) > 1 else {}),
                }
            )
    return {"samples": samples, "about": about}
