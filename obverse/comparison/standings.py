"""The table of a comparison, computed from its sample files: means, intervals, differences from the best baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from obverse.comparison.plan import BASE, Plan
from obverse.comparison.run_trial import STEPS, Result, result
from obverse.comparison.test_sets import Column
from obverse.errors import DamageError
from obverse.evaluation.bootstrap import Difference, nested_interval, paired
from obverse.evaluation.metrics import pass_at_k
from obverse.runtime import integrity as sealing
from obverse.runtime.json_lines import read_objects

INSIDE = "in domain"  # the problems of all tests in distribution, together
Verdict = Literal["better", "worse", "not distinguishable", "best baseline", ""]
Values = tuple[tuple[float, ...], ...]  # [seed][problem]
Counts = tuple[tuple[tuple[int, int], ...], ...]  # [seed][problem], samples and correct samples


@dataclass(frozen=True)
class Figure:
    """One cell: pass@k of an entry's last or best step on a test, with the 95 % interval over problems and seeds."""

    entry: str
    step: str
    test: str
    k: int
    mean: float
    low: float
    high: float
    samples: str | None  # the folder of its samples, relative to the comparison's; None if over several tests
    baseline: str | None = None  # the best baseline on this test at this step
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    verdict: Verdict = ""


@dataclass(frozen=True)
class Row:
    """The runs of an entry: learning rate, trials of its search, and steps, tokens, FLOPs and seconds of each seed."""

    entry: str
    label: str
    rate: float
    is_baseline: bool
    steps: list[int]
    best_steps: list[int]
    num_tokens: list[int]
    flops: list[float]
    seconds: list[float]
    grid: list[dict[str, float]]
    failed: list[str]


@dataclass(frozen=True)
class Standings:
    """The table of a comparison, as `export` writes it."""

    budget: int
    budget_in: str
    teacher_cost: int | None  # of the budget, for methods that read a teacher model
    seeds: list[int]
    k: list[int]
    num_samples: int
    baselines: list[str]
    tests: list[dict[str, Any]]
    columns: list[str]
    entries: list[Row]
    figures: list[Figure]

    def figure(self, entry: str, step: str, test: str, k: int) -> Figure | None:
        """The figure of a cell; None if a run of the entry failed."""
        return self._index().get((entry, step, test, k))

    def _index(self) -> Mapping[tuple[str, str, str, int], Figure]:
        return {(figure.entry, figure.step, figure.test, figure.k): figure for figure in self.figures}

    def label(self, entry: str) -> str:
        return next((row.label for row in self.entries if row.entry == entry), entry)


def standings(plan: Plan) -> Standings:
    """The table of a comparison with all trials done."""
    entries = [row(plan, entry.name, entry.label) for entry in plan.entries]
    names = [BASE, *(entry.entry for entry in entries if not entry.failed)]
    roles: dict[str, str] = {test.name: test.role for test in plan.tests}
    in_domain = [name for name, role in roles.items() if role == "in"]
    columns = in_domain + ([INSIDE] if len(in_domain) > 1 else []) + [name for name in roles if roles[name] != "in"]
    figures = []
    for step in STEPS:
        counts = {(name, test): read_counts(plan, name, step, test) for name in names for test in roles}
        for test in columns:
            parts = in_domain if test == INSIDE else [test]
            for k in plan.config.k:
                values = {name: join([at(k, counts[name, part]) for part in parts]) for name in names}
                figures += column(plan, step, test, k, values)
    config = plan.config
    return Standings(
        budget=config.budget,
        budget_in=config.budget_in,
        teacher_cost=config.teacher_cost,
        seeds=plan.seeds,
        k=list(config.k),
        num_samples=config.num_generations_test,
        baselines=sorted(plan.baselines),
        tests=[about_test(plan, test) for test in plan.tests],
        columns=columns,
        entries=entries,
        figures=figures,
    )


def about_test(plan: Plan, test: Column) -> dict[str, Any]:
    """A test set as stored in standings.json."""
    return {
        "name": test.name,
        "dataset": test.dataset,
        "split": test.split,
        "role": test.role,
        "problems": len(problems(plan, test.name)),
    }


def row(plan: Plan, name: str, label: str) -> Row:
    """The row of an entry, from the results of its trials."""
    trials = [trial for trial in plan.trials() if trial.entry.name == name]
    results: list[Result] = [outcome for trial in trials if not trial.is_grid and (outcome := result(plan, trial))]
    grid = [outcome for trial in trials if trial.is_grid and (outcome := result(plan, trial))]
    return Row(
        entry=name,
        label=label,
        rate=results[0].rate,
        is_baseline=name in plan.baselines,
        steps=[outcome.steps for outcome in results],
        best_steps=[outcome.best for outcome in results],
        num_tokens=[outcome.num_tokens for outcome in results],
        flops=[outcome.flops for outcome in results],
        seconds=[outcome.seconds for outcome in results],
        grid=[
            {"rate": outcome.rate, "score": outcome.score, "num_tokens": outcome.num_tokens, "seconds": outcome.seconds}
            for outcome in grid
        ],
        failed=[f"seed {outcome.seed}: {outcome.failed}" for outcome in results if outcome.failed],
    )


def column(plan: Plan, step: str, test: str, k: int, values: Mapping[str, Values]) -> list[Figure]:
    """The figures of one test at one step; only those at the first k are compared with the best baseline."""
    means = {name: mean(scores) for name, scores in values.items()}
    baselines = [name for name in values if name in plan.baselines]
    best = max(baselines, key=lambda name: means[name], default=None) if k == plan.config.k[0] else None
    figures = []
    for name, scores in values.items():
        low, high = nested_interval(scores, bounds=(0.0, 1.0))
        samples = None if test == INSIDE else f"figures/{name}/{step}/{test}"
        comparison: dict[str, Any] = {}
        if best is not None and name == best:
            comparison = {"verdict": "best baseline"}
        elif best is not None:
            change = paired(scores, values[best])
            comparison = {
                "baseline": best,
                "difference": change.mean,
                "difference_low": max(change.low, -1.0),
                "difference_high": min(change.high, 1.0),
                "verdict": verdict_of(change),
            }
        figures.append(Figure(name, step, test, k, means[name], low, high, samples, **comparison))
    return figures


def verdict_of(change: Difference) -> Verdict:
    """The verdict on a difference, by its interval."""
    if not change.distinguishable:
        return "not distinguishable"
    return "better" if change.mean > 0 else "worse"


def mean(values: Values) -> float:
    return sum(map(sum, values)) / sum(map(len, values))


def join(parts: Sequence[Values]) -> Values:
    """The problems of several tests side by side, seed by seed."""
    return tuple(tuple(value for part in seed for value in part) for seed in zip(*parts, strict=True))


def at(k: int, counts: Counts) -> Values:
    """pass@k of every problem, by seed."""
    return tuple(tuple(pass_at_k(num_samples, num_correct, k) for num_samples, num_correct in seed) for seed in counts)


def read_counts(plan: Plan, name: str, step: str, test: str) -> Counts:
    """(samples, correct samples) of every problem, by seed, counted from the sample files.

    Raises DamageError, which names the file, if a file is damaged or has other samples.
    """
    names, counts = problems(plan, test), []
    for seed in plan.seeds:
        path = plan.figures_path(name, step, test, seed)
        rows = sealing.read_sealed_rows(path)
        if [row.get("problem") for row in rows] != names or not all(_is_of(row, plan) for row in rows):
            raise DamageError(f"{path} does not have the samples of {plan.problems_path(test)}: {sealing.REMEDY}")
        counts.append(tuple((len(row["correct"]), sum(map(bool, row["correct"]))) for row in rows))
    return tuple(counts)


def _is_of(row: Mapping[str, Any], plan: Plan) -> bool:
    correct = row.get("correct")
    return isinstance(correct, list) and len(correct) == plan.config.num_generations_test


def difference(plan: Plan, first: str, second: str, step: str, test: str, k: int) -> Difference:
    """The paired difference of two entries on a test, or on INSIDE, over problems and seeds."""
    parts = [column.name for column in plan.tests if column.name == test or (test == INSIDE and column.role == "in")]
    first_values, second_values = (
        join([at(k, read_counts(plan, name, step, part)) for part in parts]) for name in (first, second)
    )
    return paired(first_values, second_values)


def problems(plan: Plan, test: str) -> list[str]:
    """The names of a test's problems, in their order."""
    return [str(row.get("id")) for row in read_objects(plan.problems_path(test), DamageError)]
