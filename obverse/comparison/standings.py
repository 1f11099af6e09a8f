"""The table of a comparison, from the sample files alone: means, intervals, and whether a difference is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from obverse.comparison.plan import BASE, Plan
from obverse.comparison.run_trial import STEPS, Result, result
from obverse.errors import DamageError
from obverse.evaluation.bootstrap import Difference, nested_interval, paired
from obverse.evaluation.metrics import pass_at_k
from obverse.runtime import integrity as sealing
from obverse.runtime.json_lines import read_objects

INSIDE = "in domain"  # the problems of all tests in distribution, together
Verdict = Literal["better", "worse", "not distinguishable", "best baseline", ""]
Values = tuple[tuple[float, ...], ...]  # [seed][problem]
Counts = tuple[tuple[tuple[int, int], ...], ...]  # [seed][problem], samples and correct ones


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
    samples: str | None  # the folder of its samples, relative to the comparison's; None where it is of several tests
    baseline: str | None = None  # the best one on this test at this step, that this entry is held against
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    verdict: Verdict = ""


@dataclass(frozen=True)
class Row:
    """What an entry's runs were: its rate and what choosing it cost, steps, tokens and seconds of each seed."""

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
    """Everything that the exports print."""

    budget: int
    budget_in: str
    seeds: list[int]
    k: list[int]
    num_samples: int
    baselines: list[str]
    tests: list[dict[str, Any]]
    columns: list[str]
    entries: list[Row]
    figures: list[Figure]

    def figure(self, entry: str, step: str, test: str, k: int) -> Figure | None:
        """The cell; None where an entry has none because a run of it failed."""
        return self._index().get((entry, step, test, k))

    def _index(self) -> Mapping[tuple[str, str, str, int], Figure]:
        return {(each.entry, each.step, each.test, each.k): each for each in self.figures}

    def label(self, entry: str) -> str:
        return next((row.label for row in self.entries if row.entry == entry), entry)


def standings(plan: Plan) -> Standings:
    """Read a comparison whose trials are all over."""
    entries = [row(plan, name, label) for name, label in ((entry.name, entry.label) for entry in plan.entries)]
    names = [BASE, *(each.entry for each in entries if not each.failed)]
    roles: dict[str, str] = {test.name: test.role for test in plan.tests}
    inside = [name for name, role in roles.items() if role == "in"]
    columns = inside + ([INSIDE] if len(inside) > 1 else []) + [name for name in roles if roles[name] != "in"]
    figures = []
    for step in STEPS:
        counts = {(name, test): read(plan, name, step, test) for name in names for test in roles}
        for test in columns:
            parts = inside if test == INSIDE else [test]
            for k in plan.config.k:
                values = {name: join([at(k, counts[name, part]) for part in parts]) for name in names}
                figures += column(plan, step, test, k, values)
    tests = [
        {
            "name": test.name,
            "dataset": test.dataset,
            "split": test.split,
            "role": test.role,
            "problems": len(problems(plan, test.name)),
        }
        for test in plan.tests
    ]
    config = plan.config
    return Standings(
        config.budget, config.budget_in, plan.seeds, list(config.k), config.num_generations_test,
        sorted(plan.baselines), tests, columns, entries, figures,
    )  # fmt: skip


def row(plan: Plan, name: str, label: str) -> Row:
    """What the trials of an entry came to."""
    trials = [trial for trial in plan.trials() if trial.entry.name == name]
    done: list[Result] = [found for trial in trials if not trial.is_grid and (found := result(plan, trial))]
    grid = [found for trial in trials if trial.is_grid and (found := result(plan, trial))]
    return Row(
        entry=name,
        label=label,
        rate=done[0].rate,
        is_baseline=name in plan.baselines,
        steps=[each.steps for each in done],
        best_steps=[each.best for each in done],
        num_tokens=[each.num_tokens for each in done],
        flops=[each.flops for each in done],
        seconds=[each.seconds for each in done],
        grid=[
            {"rate": each.rate, "score": each.score, "num_tokens": each.num_tokens, "seconds": each.seconds}
            for each in grid
        ],
        failed=[f"seed {each.seed}: {each.failed}" for each in done if each.failed],
    )


def column(plan: Plan, step: str, test: str, k: int, values: Mapping[str, Values]) -> list[Figure]:
    """The cells of one test at one step; k[0] is what the comparison with the best baseline is about."""
    means = {name: mean(each) for name, each in values.items()}
    baselines = [name for name in values if name in plan.baselines]
    best = max(baselines, key=lambda name: means[name], default=None) if k == plan.config.k[0] else None
    found = []
    for name, each in values.items():
        low, high = nested_interval(each, bounds=(0.0, 1.0))
        samples = None if test == INSIDE else f"figures/{name}/{step}/{test}"
        extra: dict[str, Any] = {}
        if best is not None and name == best:
            extra = {"verdict": "best baseline"}
        elif best is not None:
            against = paired(each, values[best])
            extra = {
                "baseline": best,
                "difference": against.mean,
                "difference_low": max(against.low, -1.0),
                "difference_high": min(against.high, 1.0),
                "verdict": verdict_of(against),
            }
        found.append(Figure(name, step, test, k, means[name], low, high, samples, **extra))
    return found


def verdict_of(against: Difference) -> Verdict:
    """What the interval of a difference says."""
    if not against.distinguishable:
        return "not distinguishable"
    return "better" if against.mean > 0 else "worse"


def mean(values: Values) -> float:
    return sum(map(sum, values)) / sum(map(len, values))


def join(parts: Sequence[Values]) -> Values:
    """The problems of several tests side by side, seed by seed."""
    return tuple(tuple(value for part in seed for value in part) for seed in zip(*parts, strict=True))


def at(k: int, counts: Counts) -> Values:
    """pass@k of every problem, by seed."""
    return tuple(tuple(pass_at_k(num_samples, num_correct, k) for num_samples, num_correct in seed) for seed in counts)


def read(plan: Plan, name: str, step: str, test: str) -> Counts:
    """(samples, correct ones) of every problem, by seed, counted from the sample files.

    DamageError, which names the file, where one is not what was written.
    """
    names, found = problems(plan, test), []
    for seed in plan.seeds:
        path = plan.figures_path(name, step, test, seed)
        rows = sealing.read_sealed_rows(path)
        if [row.get("problem") for row in rows] != names or not all(_is_of(row, plan) for row in rows):
            raise DamageError(f"{path} does not have the samples of {plan.problems_path(test)}: {sealing.REMEDY}")
        found.append(tuple((len(row["correct"]), sum(map(bool, row["correct"]))) for row in rows))
    return tuple(found)


def _is_of(row: Mapping[str, Any], plan: Plan) -> bool:
    correct = row.get("correct")
    return isinstance(correct, list) and len(correct) == plan.config.num_generations_test


def difference(plan: Plan, first: str, second: str, step: str, test: str, k: int) -> Difference:
    """How far one entry is above another on a test, or on INSIDE, problem by problem and seed by seed."""
    parts = [each.name for each in plan.tests if each.name == test or (test == INSIDE and each.role == "in")]
    one, other = (join([at(k, read(plan, name, step, part)) for part in parts]) for name in (first, second))
    return paired(one, other)


def problems(plan: Plan, test: str) -> list[str]:
    """The names of a test's problems, in their order."""
    return [str(row.get("id")) for row in read_objects(plan.problems_path(test), DamageError)]
