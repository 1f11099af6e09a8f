"""`obverse analyze variance`: the trade-off of bias and variance as numbers, method by method, stage by stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table as Grid

from obverse import methods
from obverse.analysis.enumerable_gradients import Moments, moments
from obverse.analysis.enumerable_policy import LENGTH, Table, stages
from obverse.config.analyze import VarianceConfig
from obverse.errors import ConfigError
from obverse.estimator.method import Method
from obverse.estimator.schedule import as_schedule
from obverse.runtime.callbacks import Silent, Watcher
from obverse.types import Source

COLUMNS = ("bias", "cosine", "scale", "variance", "snr", "error")


@dataclass(frozen=True)
class Estimator:
    """A method, of a course one of its lanes, and its moments at each stage."""

    method: str
    stage: int
    stages: list[Moments]


@dataclass(frozen=True)
class Variance:
    """Every method's moments at every stage; `success` and `true_norm` are the policy's at each."""

    num_generations: int
    seed: int
    success: list[float]
    true_norm: list[float]
    estimators: list[Estimator]
    left_out: Mapping[str, str]

    def plain(self) -> dict[str, Any]:
        """The figures for programs."""
        return {
            "question": "variance",
            "num_generations": self.num_generations,
            "seed": self.seed,
            "stages": [
                {"success": rate, "true_norm": norm} for rate, norm in zip(self.success, self.true_norm, strict=True)
            ],
            "methods": [
                {
                    "method": each.method,
                    "lane": each.stage,
                    "stages": [asdict(found) | {"is_exact": not found.uncertainty} for found in each.stages],
                }
                for each in self.estimators
            ],
            "left_out": dict(self.left_out),
        }

    def rows(self) -> Iterable[list[str]]:
        """A row of text per method and stage."""
        num_stages = Counter(each.method for each in self.estimators)
        for each in self.estimators:
            name = each.method if num_stages[each.method] == 1 else f"{each.method}, lane {each.stage}"
            for rate, found in zip(self.success, each.stages, strict=True):
                first = name if rate == self.success[0] else ""
                groups = f"{'' if not found.uncertainty else '~'}{found.num_groups}"
                figures = [written(getattr(found, column)) for column in COLUMNS]
                if found.uncertainty:
                    figures[0] += f" +-{found.uncertainty:.1g}"
                yield [first, f"{rate:.0%}", *figures, groups]

    def table(self) -> Grid:
        """The figures for a console."""
        grid = Grid(title="gradient estimators beside the true gradient", title_justify="left")
        for column in ("method", "solved", *COLUMNS, "groups"):
            grid.add_column(column, justify="left" if column == "method" else "right")
        for number, row in enumerate(self.rows(), 1):
            grid.add_row(*row, end_section=number % len(self.success) == 0)
        grid.caption = (
            "bias and variance in units of the true gradient; error: 0 knows its direction, 1 knows nothing"
            + "".join(f"\nleft out: {name}: {why}" for name, why in self.left_out.items())
        )
        grid.caption_justify = "left"
        return grid

    def markdown(self) -> str:
        """The figures for a page."""
        header = ("method", "solved", *COLUMNS, "groups")
        lines = [header, ["---"] * len(header), *self.rows()]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def written(value: float | None) -> str:
    """A figure with three digits that count; nothing that rounding left behind."""
    if value is None:
        return "inf"
    return "0" if abs(value) < 1e-9 else f"{value:.3g}"


def variance(config: VarianceConfig, watcher: Watcher | None = None) -> Variance:
    """The moments of all methods asked for, or of all that can be; ConfigError for one that cannot."""
    watch = watcher or Silent()
    policies = stages(config.rates, config.seed)
    chosen = config.methods or methods.names()
    left_out: dict[str, str] = {}
    estimators = []
    for number, name in enumerate(chosen):
        watch.phase("train", number, len(chosen))
        for stage, method in enumerate(sized(name, config.num_generations)):
            if why := unfit(method):
                if config.methods:
                    raise ConfigError(f"--methods: {name} {why}")
                left_out[name] = why
                continue
            estimators.append(Estimator(name, stage, _along(method, policies, config.seed)))
    watch.phase("train", len(chosen), len(chosen))
    return Variance(
        config.num_generations,
        config.seed,
        [float(policy.success()) for policy in policies],
        [float(policy.true_gradient().norm()) for policy in policies],
        estimators,
        left_out,
    )


def _along(method: Method, policies: Sequence[Table], seed: int) -> list[Moments]:
    """The moments at each stage; schedules see the share of the stages that is behind."""
    num = len(policies)
    return [moments(method, policy, policies[0], stage / num, seed) for stage, policy in enumerate(policies)]


def sized(name: str, num_generations: int | None, length: int = LENGTH) -> tuple[Method, ...]:
    """A method's lanes with the defaults that a run has, but as many own samples and tokens as here."""
    known = methods.parameters(methods.find(name))
    run = as_schedule(methods.build(name)).run
    given = {"num_generations": num_generations, "max_completion_length": length}
    options = {option: value for option, value in run.items() if option in known}
    options |= {option: value for option, value in given.items() if option in known and value is not None}
    return as_schedule(methods.build(name, options)).methods


def unfit(method: Method) -> str:
    """Why a method's gradient cannot be had from demonstrations and own samples in a table; empty if it can."""
    if not method.trains_policy:
        return "trains no policy"
    if method.sources <= {Source.CHOSEN, Source.REJECTED}:
        return "compares pairs, and this world has none"
    return "changes what the policy reads, and a table reads nothing" if method.inputs is not None else ""
