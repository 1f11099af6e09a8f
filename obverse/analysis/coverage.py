"""`obverse analyze coverage`: what a base model can solve in k tries against what was trained from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Group as Stack
from rich.table import Table
from rich.text import Text

from obverse.analysis.context import filled, points, run_of, scene
from obverse.config.analyze import CoverageConfig
from obverse.errors import ConfigError, DataError
from obverse.evaluation import result_file as results
from obverse.evaluation.bootstrap import interval
from obverse.evaluation.evaluate import measure
from obverse.evaluation.metrics import pass_at_k
from obverse.inference.hf import HFSampler
from obverse.redact import flat
from obverse.runtime.callbacks import Silent, Watcher

MOST = 1024
ABLE = 0.5  # the base can do a problem of which it solves this share of its samples
NUM_NAMED = 12  # problems that a table names


@dataclass(frozen=True)
class Counts:
    """One policy's answers: by problem, how many there are and how many of them are right."""

    name: str
    problems: Mapping[str, tuple[int, int]]

    @property
    def num_samples(self) -> int:
        """Answers that every problem has."""
        return min(num for num, _ in self.problems.values())

    def pass_at(self, k: int, names: Sequence[str]) -> list[float]:
        """The unbiased pass@k of each problem."""
        return [pass_at_k(*self.problems[name], k) for name in names]

    def rate(self, name: str) -> float:
        num, right = self.problems[name]
        return right / num


@dataclass(frozen=True)
class Curve:
    """A policy's mean pass@k with its 95 % interval over problems, by k."""

    name: str
    num_samples: int
    mean: dict[int, float]
    interval: dict[int, tuple[float, float]]


@dataclass(frozen=True)
class Against:
    """A trained policy beside the base.

    crossover: the smallest k at which the base solves at least as much, 1 if it does from the start, None if never;
    gained and lost: solved by one of the two only, in all of its samples; able: problems of which the base solves at
    least half of its samples; kept: the mean change of the success rate on them with its 95 % interval over problems;
    forgotten: those of which less than half is solved now.
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
    """The base first, then what was trained from it, on the problems that all of them answered."""

    num_problems: int
    curves: list[Curve]
    against: list[Against]

    def plain(self) -> dict[str, Any]:
        """The figures for programs."""
        policies = [
            {
                "name": each.name,
                "num_samples": each.num_samples,
                "pass": {str(k): value for k, value in each.mean.items()},
                "interval": {str(k): list(value) for k, value in each.interval.items()},
            }
            for each in self.curves
        ]
        against = list(map(asdict, self.against))
        return {"question": "coverage", "num_problems": self.num_problems, "policies": policies, "against": against}

    def table(self) -> Stack:
        """The figures for a console."""
        table = Table(title=f"pass@k on {self.num_problems} problems, 95 % intervals", title_justify="left")
        for column in ("k", *(flat(each.name) for each in self.curves)):
            table.add_column(column, justify="right", overflow="fold")
        for k in self.curves[0].mean:
            cells = (f"{each.mean[k]:.1%} ({_range(each.interval[k])})" for each in self.curves)
            table.add_row(str(k), *cells)
        return Stack(table, *(Text(flat(sentence(each, self.curves[0].name))) for each in self.against))


def _range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.1%}..{bounds[1]:.1%}"


def sentence(found: Against, base: str) -> str:
    """What a row of `against` says, in words."""
    crossing = {None: f"stays above {base} at every k", 1: f"is not above {base} at k = 1"}
    words = crossing.get(found.crossover, f"is above {base} until k = {found.crossover}, where {base} has caught up")
    parts = [f"{found.name} {words}", f"gained {_named(found.gained)}", f"lost {_named(found.lost)}"]
    if found.kept is not None and found.kept_interval is not None:
        low, high = found.kept_interval
        parts.append(
            f"on the {found.able} problems that {base} could do its success rate changed by {found.kept:+.1%} "
            f"({low:+.1%}..{high:+.1%}), forgotten {_named(found.forgotten)}"
        )
    return "; ".join(parts)


def _named(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > NUM_NAMED else ""
    return f"{len(names)} ({', '.join(names[:NUM_NAMED])}{more})" if names else "0"


def coverage(config: CoverageConfig, watcher: Watcher | None = None) -> Coverage:
    """Counts of the base and the others, read where an evaluation stored them, else sampled now.

    Raises DataError for a file that holds no evaluation, ConfigError where the policies share no problems.
    """
    watch, models = watcher or Silent(), (config.model, *config.against)
    run = next((model for model in models if run_of(model) is not None), config.model)
    asked = filled(config.model_copy(update={"model": run}))  # all are asked the same, in the same way
    held_out = (run_of(run) or {}).get("eval_dataset")
    mine = {"dataset": config.dataset or held_out or asked.dataset, "dataset_split": config.dataset_split}
    return compare([counts_of(model, asked.model_copy(update=mine), watch) for model in models])


def compare(found: Sequence[Counts]) -> Coverage:
    """The first of the policies against each of the others, on the problems that all have."""
    base, *others = found
    names = [name for name in base.problems if all(name in other.problems for other in others)]
    if not names:
        raise ConfigError(f"{base.name} and what is compared with it were asked no problem in common")
    most = min(MOST, *(each.num_samples for each in found))
    ks = [2**power for power in range(most.bit_length()) if 2**power <= most]
    ks = ks if ks[-1] == most else [*ks, most]
    curves = []
    for each in found:
        values = {k: each.pass_at(k, names) for k in ks}
        means = {k: fmean(own) for k, own in values.items()}
        bounds = {k: interval(own, bounds=(0.0, 1.0)) for k, own in values.items()}
        curves.append(Curve(each.name, each.num_samples, means, bounds))
    return Coverage(len(names), curves, [beside(base, other, names, ks) for other in others])


def beside(base: Counts, other: Counts, names: Sequence[str], ks: Sequence[int]) -> Against:
    """One trained policy beside the base."""
    able = [name for name in names if base.rate(name) >= ABLE]
    changes = [other.rate(name) - base.rate(name) for name in able]
    return Against(
        other.name,
        crossover(base, other, names, ks),
        [name for name in names if base.rate(name) == 0 < other.rate(name)],
        [name for name in names if other.rate(name) == 0 < base.rate(name)],
        len(able),
        fmean(changes) if able else None,
        interval(changes) if able else None,
        [name for name in able if other.rate(name) < ABLE],
    )


def crossover(base: Counts, other: Counts, names: Sequence[str], ks: Sequence[int]) -> int | None:
    """The smallest k at which the base solves at least as much; between two of `ks` by bisection."""

    def behind(k: int) -> bool:
        return fmean(base.pass_at(k, names)) >= fmean(other.pass_at(k, names))

    caught = next((number for number, k in enumerate(ks) if behind(k)), None)
    if caught is None or caught == 0:
        return None if caught is None else ks[0]
    low, high = ks[caught - 1], ks[caught]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if behind(middle) else (middle, high)
    return high


def counts_of(model: str, config: CoverageConfig, watcher: Watcher) -> Counts:
    """A policy's counts: out of a stored evaluation (its folder or its result.json), or by sampling a model now."""
    path = Path(model)
    file = path if path.suffix == ".json" else path / "result.json"
    if file.is_file() or path.suffix == ".json":
        return stored_counts(file)
    point = points(model)[-1]
    here = scene(config, point.place, point.place)
    chosen = here.problems[: config.num_problems]  # the first ones, as obverse eval takes them
    sampler = HFSampler(here.policy.model, decode=here.renderer.decode, mixed=here.policy.mixed)
    scores = measure(chosen, sampler, here.renderer, here.params, config.num_generations, config.seed, watcher)
    label = f"{model} ({point.name})" if point.step else model
    return Counts(label, {score.problem: (score.num_samples, score.num_correct) for score in scores})


def stored_counts(file: Path) -> Counts:
    """The counts in an evaluation's result.json, all of its seeds together. DamageError where it is none."""
    result = results.read(file, results.Counted)
    label = f"{result['model']['name']} on {result['name']}"
    problems: dict[str, tuple[int, int]] = {}
    for row in result["problems"]:
        num, right = problems.get(row["problem"], (0, 0))
        problems[row["problem"]] = num + row["num_samples"], right + row["num_correct"]
    if not problems:
        raise DataError(f"{file} holds no problems")
    return Counts(label, problems)
