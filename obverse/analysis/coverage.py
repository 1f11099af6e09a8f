"""`obverse analyze coverage`: pass@k of a base model against models that were trained from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Group as Stack
from rich.table import Table
from rich.text import Text

from obverse.analysis.context import load_context, points, run_of, with_run_options
from obverse.config.analyze import CoverageConfig
from obverse.errors import ConfigError, DataError
from obverse.evaluation import result_file as results
from obverse.evaluation.bootstrap import interval
from obverse.evaluation.metrics import pass_at_k
from obverse.evaluation.sample_and_score import EvalSetup, measure
from obverse.redact import flat
from obverse.runtime.callbacks import Silent, Watcher

MOST = 1024
ABLE = 0.5  # a problem counts as solvable for the base if this share of its samples is correct
NUM_NAMED = 12  # problems that are listed by name


@dataclass(frozen=True)
class Counts:
    """One policy's samples: by problem, their number and the number of correct ones."""

    name: str
    problems: Mapping[str, tuple[int, int]]

    @property
    def num_samples(self) -> int:
        """The smallest number of samples of a problem."""
        return min(num for num, _ in self.problems.values())

    def pass_at(self, k: int, names: Sequence[str]) -> list[float]:
        """The unbiased pass@k of each problem."""
        return [pass_at_k(*self.problems[name], k) for name in names]

    def rate(self, name: str) -> float:
        num, num_correct = self.problems[name]
        return num_correct / num


@dataclass(frozen=True)
class Curve:
    """A policy's mean pass@k with its 95 % interval over problems, by k."""

    name: str
    num_samples: int
    mean: dict[int, float]
    interval: dict[int, tuple[float, float]]


@dataclass(frozen=True)
class Against:
    """A trained policy compared with the base.

    crossover: the smallest k at which the base has at least the same pass@k, 1 if at every k, None if at no k;
    gained, lost: problems with a correct sample of one of the two only; able: problems that the base solves in at least
    half of its samples; kept: the mean change of the success rate on them, with its 95 % interval over problems;
    forgotten: those that the trained policy solves in less than half of its samples.
    """

    name: str
    crossover: int | None
    gained: list[str]
    lost: list[str]
    able: int
    kept: float | None
    kept_interval: tuple[float, float] | None
    forgotten: list[str]


@dataclass(frozen=True)
class Coverage:
    """Curves of the base and of the trained policies, on the problems that all of them have samples of."""

    num_problems: int
    curves: list[Curve]
    against: list[Against]

    def plain(self) -> dict[str, Any]:
        """The figures for programs."""
        policies = [
            {
                "name": curve.name,
                "num_samples": curve.num_samples,
                "pass": {str(k): value for k, value in curve.mean.items()},
                "interval": {str(k): list(value) for k, value in curve.interval.items()},
            }
            for curve in self.curves
        ]
        against = list(map(asdict, self.against))
        return {"question": "coverage", "num_problems": self.num_problems, "policies": policies, "against": against}

    def table(self) -> Stack:
        """The figures for a console."""
        table = Table(title=f"pass@k on {self.num_problems} problems, 95 % intervals", title_justify="left")
        for column in ("k", *(flat(curve.name) for curve in self.curves)):
            table.add_column(column, justify="right", overflow="fold")
        for k in self.curves[0].mean:
            cells = (f"{curve.mean[k]:.1%} ({_range(curve.interval[k])})" for curve in self.curves)
            table.add_row(str(k), *cells)
        return Stack(table, *(Text(flat(sentence(against, self.curves[0].name))) for against in self.against))


def _range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.1%}..{bounds[1]:.1%}"


def sentence(against: Against, base: str) -> str:
    """A comparison with the base as a sentence."""
    crossing = {None: f"stays above {base} at every k", 1: f"is not above {base} at k = 1"}
    words = crossing.get(
        against.crossover, f"is above {base} until k = {against.crossover}, where {base} is equal or above"
    )
    parts = [f"{against.name} {words}", f"gained {_named(against.gained)}", f"lost {_named(against.lost)}"]
    if against.kept is not None and against.kept_interval is not None:
        low, high = against.kept_interval
        parts.append(
            f"on the {against.able} problems that {base} could solve its success rate changed by {against.kept:+.1%} "
            f"({low:+.1%}..{high:+.1%}), forgotten {_named(against.forgotten)}"
        )
    return "; ".join(parts)


def _named(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > NUM_NAMED else ""
    return f"{len(names)} ({', '.join(names[:NUM_NAMED])}{more})" if names else "0"


def coverage(config: CoverageConfig, watcher: Watcher | None = None) -> Coverage:
    """Compare the base with the trained policies, from stored evaluations or by sampling.

    Raises DataError for a file that is not an evaluation, ConfigError if the policies have no problem in common.
    """
    watch, models = watcher or Silent(), (config.model, *config.against)
    run = next((model for model in models if run_of(model) is not None), config.model)
    options = with_run_options(config.model_copy(update={"model": run}))  # the same problems and prompts for all
    held_out = (run_of(run) or {}).get("eval_dataset")
    data = {"dataset": config.dataset or held_out or options.dataset, "dataset_split": config.dataset_split}
    return compare([counts_of(model, options.model_copy(update=data), watch) for model in models])


def compare(policies: Sequence[Counts]) -> Coverage:
    """Compare the first policy with each of the others, on the problems that all have."""
    base, *all_trained = policies
    names = [name for name in base.problems if all(name in trained.problems for trained in all_trained)]
    if not names:
        raise ConfigError(f"{base.name} and the models to compare have no problem in common")
    most = min(MOST, *(policy.num_samples for policy in policies))
    ks = [2**power for power in range(most.bit_length()) if 2**power <= most]
    ks = ks if ks[-1] == most else [*ks, most]
    curves = []
    for policy in policies:
        by_k = {k: policy.pass_at(k, names) for k in ks}
        means = {k: fmean(values) for k, values in by_k.items()}
        bounds = {k: interval(values, bounds=(0.0, 1.0)) for k, values in by_k.items()}
        curves.append(Curve(policy.name, policy.num_samples, means, bounds))
    return Coverage(len(names), curves, [against_base(base, trained, names, ks) for trained in all_trained])


def against_base(base: Counts, trained: Counts, names: Sequence[str], ks: Sequence[int]) -> Against:
    """The comparison of one trained policy with the base."""
    able = [name for name in names if base.rate(name) >= ABLE]
    changes = [trained.rate(name) - base.rate(name) for name in able]
    return Against(
        trained.name,
        crossover(base, trained, names, ks),
        [name for name in names if base.rate(name) == 0 < trained.rate(name)],
        [name for name in names if trained.rate(name) == 0 < base.rate(name)],
        len(able),
        fmean(changes) if able else None,
        interval(changes) if able else None,
        [name for name in able if trained.rate(name) < ABLE],
    )


def crossover(base: Counts, trained: Counts, names: Sequence[str], ks: Sequence[int]) -> int | None:
    """The smallest k at which the base's pass@k is at least the trained policy's; bisected between two of `ks`."""

    def behind(k: int) -> bool:
        return fmean(base.pass_at(k, names)) >= fmean(trained.pass_at(k, names))

    caught = next((number for number, k in enumerate(ks) if behind(k)), None)
    if caught is None or caught == 0:
        return None if caught is None else ks[0]
    low, high = ks[caught - 1], ks[caught]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if behind(middle) else (middle, high)
    return high


def counts_of(model: str, config: CoverageConfig, watcher: Watcher) -> Counts:
    """A policy's counts, from a stored evaluation (its folder or its result.json) or by sampling the model."""
    path = Path(model)
    file = path if path.suffix == ".json" else path / "result.json"
    if file.is_file() or path.suffix == ".json":
        return stored_counts(file)
    point = points(model)[-1]
    context = load_context(config, point.path, point.path)
    problems = context.problems[: config.num_problems]  # the first ones, as in obverse eval
    sampler = context.sampler(context.policy)
    setup = EvalSetup(sampler, context.renderer, context.params, config.num_generations, config.seed)
    scores = measure(problems, setup, watcher)
    label = f"{model} ({point.name})" if point.step else model
    return Counts(label, {score.problem: (score.num_samples, score.num_correct) for score in scores})


def stored_counts(file: Path) -> Counts:
    """The counts in an evaluation's result.json over all its seeds; DamageError if it is not one."""
    result = results.read(file, results.CountsResult)
    label = f"{result['model']['name']} on {result['name']}"
    problems: dict[str, tuple[int, int]] = {}
    for row in result["problems"]:
        num, num_correct = problems.get(row["problem"], (0, 0))
        problems[row["problem"]] = num + row["num_samples"], num_correct + row["num_correct"]
    if not problems:
        raise DataError(f"{file} has no problems")
    return Counts(label, problems)
