"""`obverse analyze variance`: bias and variance of every method's gradient, at several success rates of a policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table as Grid

from obverse import methods
from obverse.analysis.enumerable_gradients import Moments, expectation
from obverse.analysis.enumerable_policy import LENGTH, Table, policies_at
from obverse.analysis.enumerable_teachers import Models, better_than, distillation_gradient
from obverse.config.analyze import VarianceConfig
from obverse.errors import ConfigError
from obverse.estimator.method import Method
from obverse.estimator.schedule import as_schedule
from obverse.runtime.callbacks import Silent, Watcher
from obverse.types import Source

REVERSE_KL = "reverse KL"  # from the teacher; the other objective is the expected reward
COLUMNS = ("bias", "cosine", "scale", "variance", "snr", "error")


@dataclass(frozen=True)
class Estimator:
    """A method, or a stage of its training schedule, and its moments for each policy.

    The true gradient that the moments are in units of is that of the expected reward, or of an `objective`, REVERSE_KL.
    """

    method: str
    stage: int
    stages: list[Moments]
    objective: str = ""


@dataclass(frozen=True)
class Variance:
    """The moments of every method for every policy; `success` and `true_norm` are those of the policies."""

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
                    "method": estimator.method,
                    "lane": estimator.stage,
                    **({"objective": estimator.objective} if estimator.objective else {}),
                    "stages": [asdict(moments) | {"is_exact": not moments.uncertainty} for moments in estimator.stages],
                }
                for estimator in self.estimators
            ],
            "left_out": dict(self.left_out),
        }

    def rows(self) -> Iterable[list[str]]:
        """A row of text per method and stage."""
        num_stages = Counter(estimator.method for estimator in self.estimators if not estimator.objective)
        for estimator in self.estimators:
            name = (
                estimator.method
                if num_stages[estimator.method] == 1
                else f"{estimator.method}, stage {estimator.stage}"
            ) + (f", {estimator.objective}" if estimator.objective else "")
            for rate, figures_at in zip(self.success, estimator.stages, strict=True):
                first = name if rate == self.success[0] else ""
                groups = f"{'' if not figures_at.uncertainty else '~'}{figures_at.num_groups}"
                cells = [format_number(getattr(figures_at, column)) for column in COLUMNS]
                if figures_at.uncertainty:
                    cells[0] += f" +-{figures_at.uncertainty:.1g}"
                yield [first, f"{rate:.0%}", *cells, groups]

    def table(self) -> Grid:
        """The figures for a console."""
        grid = Grid(title="gradient estimators beside the true gradient", title_justify="left")
        for column in ("method", "solved", *COLUMNS, "groups"):
            grid.add_column(column, justify="left" if column == "method" else "right")
        for number, row in enumerate(self.rows(), 1):
            grid.add_row(*row, end_section=number % len(self.success) == 0)
        grid.caption = (
            "bias and variance in units of the true gradient, of the expected reward or of the reverse KL from the "
            "teacher; error: 0 is its direction, 1 is no information"
            + "".join(f"\nleft out: {name}: {why}" for name, why in self.left_out.items())
        )
        grid.caption_justify = "left"
        return grid

    def markdown(self) -> str:
        """The figures for a page."""
        header = ("method", "solved", *COLUMNS, "groups")
        lines = [header, ["---"] * len(header), *self.rows()]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_number(value: float | None) -> str:
    """A number with three significant digits; 0 for what is only rounding error, `inf` for None."""
    if value is None:
        return "inf"
    return "0" if abs(value) < 1e-9 else f"{value:.3g}"


def variance(config: VarianceConfig, watcher: Watcher | None = None) -> Variance:
    """The moments of the methods of --methods, or of all that can be analyzed; ConfigError for one that cannot."""
    watch = watcher or Silent()
    policies = policies_at(config.rates, config.seed)
    names = config.methods or methods.names()
    left_out: dict[str, str] = {}
    estimators = []
    for number, name in enumerate(names):
        watch.phase("train", number, len(names))
        for stage, method in enumerate(stages_of(name, config.num_generations)):
            if why := reason_against(method):
                if config.methods:
                    raise ConfigError(f"--methods: {name} {why}")
                left_out[name] = why
                continue
            estimators += estimators_of(name, stage, method, policies, config.seed)
    watch.phase("train", len(names), len(names))
    return Variance(
        config.num_generations,
        config.seed,
        [float(policy.success()) for policy in policies],
        [float(policy.true_gradient().norm()) for policy in policies],
        estimators,
        left_out,
    )


def estimators_of(name: str, stage: int, method: Method, policies: Sequence[Table], seed: int) -> list[Estimator]:
    """The method beside the gradient of the expected reward and, with a teacher, beside that of the reverse KL from it.

    The progress of schedules is the policy's index over their number; the teacher is better than the last policy.
    """
    trained = better_than(policies[-1]) if method.teacher is not None else None
    of_reward, of_kl = [], []
    for index, policy in enumerate(policies):
        models = Models(policy, policies[0], trained)
        estimate = expectation(method, models, index / len(policies), seed)
        of_reward.append(estimate.beside(policy.true_gradient()))
        if (of_teacher := distillation_gradient(method, models)) is not None:
            of_kl.append(estimate.beside(of_teacher))
    estimators = [Estimator(name, stage, of_reward)]
    return [*estimators, Estimator(name, stage, of_kl, REVERSE_KL)] if of_kl else estimators


def stages_of(name: str, num_generations: int | None, length: int = LENGTH) -> tuple[Method, ...]:
    """A method's stages with the defaults of a run, but with this number of rollouts and this length."""
    names = methods.parameters(methods.find(name))
    run = as_schedule(methods.build(name)).run
    sizes = {"num_generations": num_generations, "max_completion_length": length}
    options = {option: value for option, value in run.items() if option in names}
    options |= {option: value for option, value in sizes.items() if option in names and value is not None}
    return as_schedule(methods.build(name, options)).methods


def reason_against(method: Method) -> str:
    """Why a method's gradient cannot be computed for a tabular policy; "" if it can."""
    if not method.trains_policy:
        return "trains no policy"
    if method.sources <= {Source.CHOSEN, Source.REJECTED}:
        return "needs pairs, which this analysis does not have"
    if method.follow_up is not None:
        return "requests further samples once the first are graded, which this analysis does not enumerate"
    return "changes the policy's inputs, which a tabular policy does not have" if method.inputs is not None else ""
