"""What a comparison consists of: entries, test sets, and one trial per entry, rate and seed. No torch here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from obverse import methods
from obverse.comparison.test_sets import Column, load_column, read_tests, rows
from obverse.config.compare import CompareConfig
from obverse.config.resolve import resolve
from obverse.config.train import TrainConfig
from obverse.data import load_dataset
from obverse.errors import ConfigError, DamageError
from obverse.estimator.requests import wants
from obverse.estimator.schedule import as_schedule
from obverse.runtime import integrity as sealing
from obverse.runtime.fingerprint import rows as rows_of
from obverse.runtime.json_lines import read_bytes
from obverse.runtime.output_dir import free_folder, slug
from obverse.runtime.run_dir import RunFolder
from obverse.training.validate import check, check_data, load_problems
from obverse.types import Problem

NEVER = 10**7  # steps: the budget ends a run
GRID_SEED = 1_000  # rates are tried with a seed that no run has
KEEP_ALL = 10**6
BASE = "base"
PLAN = "plan.json"
CONFIG = "comparison.yaml"
ROOM = "make room, and the same command goes on there"
# what no entry may have for itself
ALIKE = frozenset(
    {"budget", "budget_in", "seed", "model", "dataset", "dataset_split", "num_problems", "verifier", "output_dir"}
)


@dataclass(frozen=True)
class Entry:
    """One row of the table: a method with options of its own, `hpt,gate=1` as it was written."""

    written: str

    @property
    def method(self) -> str:
        return self.written.split(",")[0]

    @property
    def options(self) -> dict[str, str]:
        pairs = [part.partition("=") for part in self.written.split(",")[1:]]
        return {name.strip().replace("-", "_"): value.strip() for name, _, value in pairs}

    @property
    def label(self) -> str:
        """`hpt gate=1`; of a user's own file.py:mine it is `mine`."""
        return " ".join([self.method.rpartition(":")[2], *(f"{name}={value}" for name, value in self.options.items())])

    @property
    def name(self) -> str:
        """The label as a folder's name."""
        return re.sub(r"[^A-Za-z0-9._]+", "-", self.label).strip("-.")


@dataclass(frozen=True)
class Trial:
    """One run: an entry with a seed; in the grid with a rate that is tried, else with the one that was chosen."""

    entry: Entry
    seed: int
    rate: float | None = None
    is_grid: bool = False

    @property
    def folder(self) -> Path:
        """Relative to the comparison's."""
        if self.is_grid:
            return Path("grid", self.entry.name, f"rate-{self.rate:g}")
        return Path("runs", self.entry.name, f"seed-{self.seed}")


@dataclass(frozen=True)
class Plan:
    """A comparison, settled: `root` is its folder."""

    config: CompareConfig
    root: Path
    entries: tuple[Entry, ...]
    tests: tuple[Column, ...]
    baselines: frozenset[str] = field(default_factory=frozenset)  # names of entries
    dataset: str = ""  # the fingerprint of the rows that are trained on with the first seed

    @cached_property
    def seeds(self) -> list[int]:
        return list(range(self.config.seed, self.config.seed + self.config.seeds))

    def rates(self, entry: Entry) -> tuple[float, ...]:
        """The rates that are tried for an entry; one that names its own has no choice."""
        return () if "learning_rate" in entry.options else self.config.learning_rates or ()

    def grid(self, entry: Entry) -> list[Trial]:
        """The trials that choose the entry's rate; none where there is nothing to choose."""
        rates = self.rates(entry)
        return [Trial(entry, GRID_SEED + self.config.seed, rate, True) for rate in rates if len(rates) > 1]

    def trials(self) -> list[Trial]:
        """All of them, in the order in which they are begun: the grid, then the first seed of each entry, and so on."""
        grid = [trial for entry in self.entries for trial in self.grid(entry)]
        return grid + [Trial(entry, seed) for seed in self.seeds for entry in self.entries]

    def run_options(self, trial: Trial, rate: float | None) -> dict[str, Any]:
        """What the trial's run is started with, beside its own options; `rate` None leaves it to the method."""
        config = self.config
        every = 1 / config.num_marks if config.num_marks > 1 and not trial.is_grid else 0  # 0: at the end alone
        in_steps = config.budget_in == "steps"
        return {
            "lr_scheduler_type": "constant",  # of a schedule that must know how many steps there are, none can tell
            **shared(config),
            **({} if rate is None else {"learning_rate": rate}),
            **trial.entry.options,
            "max_steps": config.budget if in_steps else NEVER,
            **({} if in_steps else {"budget": config.budget, "budget_in": config.budget_in}),
            "seed": trial.seed,
            "output_dir": str(self.root / trial.folder),
            "eval_dataset": str(self.problems_path("validation")),
            "num_eval_problems": 10**9,
            "eval_steps": every,
            "save_steps": every,
            "save_minutes": 0,
            "save_total_limit": KEEP_ALL,  # a run that is stopped saves more than its marks, and any may be the best
            "log_completions": config.log_completions and not trial.is_grid,
            "resume_from_checkpoint": "auto",
        }

    def resolved(self, trial: Trial, rate: float | None) -> TrainConfig:
        """The trial's configuration; ConfigError names the entry whose options are wrong."""
        entry = trial.entry
        try:
            return resolve(entry.method, methods.find(entry.method), self.run_options(trial, rate))
        except ConfigError as error:
            raise ConfigError("\n".join(f"{entry.label}: {line}" for line in str(error).splitlines())) from error

    def problems_path(self, name: str) -> Path:
        return self.root / "problems" / f"{name}.jsonl"

    def figures_path(self, name: str, step: str, test: str, seed: int) -> Path:
        """The samples of an entry's last or best step on a test: one file per seed."""
        return self.root / "figures" / name / step / test / f"seed-{seed}.jsonl"


def shared(config: CompareConfig) -> dict[str, Any]:
    """The options that were given for every run: those of training that the comparison does not settle itself."""
    names = config.model_fields_set & {*TrainConfig.model_fields} - {
        "budget",
        "budget_in",
        "seed",
        "output_dir",
        "report",
    }
    return {name: getattr(config, name) for name in sorted(names)}


def make_plan(config: CompareConfig) -> Plan:
    """Check everything that can be known before a model is loaded; ConfigError or DataError says what is wrong."""
    for name in sorted(CompareConfig.settled & config.model_fields_set):
        raise ConfigError(f"--{name}: {SETTLED.get(name, 'the comparison settles it for every run alike')}")
    root = config.output_dir or free_folder(Path("runs"), f"compare-{slug(config.dataset)}", create=False)
    entries = read_entries(config.methods)
    tests = read_tests(config)
    plan = Plan(config, root, entries, tests)
    sources: dict[str, int] = {}
    problems: list[Problem] = []
    for entry in entries:
        rates = plan.rates(entry)
        found = plan.resolved(Trial(entry, config.seed), rates[0] if rates else None)
        schedule = as_schedule(methods.build(found.method, found.method_options))
        if not all(method.trains_policy for method in schedule.methods):
            raise ConfigError(f"{entry.label}: trains no policy, so there is nothing to compare")
        check(schedule, found)
        problems = problems or load_problems(found, schedule)
        for method in schedule.methods:
            check_data(found, method, problems)
        sources[entry.name] = sum(
            any(wants(method, kind) for method in schedule.methods) for kind in ("rollouts", "demonstrations", "pairs")
        )
    baselines = choose_baselines(config, entries, sources)
    return Plan(config, root, entries, tests, baselines, rows_of(problems, own_verifiers=config.verifier is None))


SETTLED = {
    "learning_rate": "give --learning_rates: one value for every method, or several to choose from",
    "max_steps": "every run ends with its budget: --budget 100 --budget_in steps",
    "num_train_epochs": "every run ends with its budget: --budget 100 --budget_in steps",
    "eval_dataset": "give --validation and --tests",
    "eval_steps": "give --num_marks, how often a run is validated",
    "save_steps": "give --num_marks, how often a run is validated and saved",
    "save_minutes": "give --num_marks, how often a run is validated and saved",
}


def read_entries(written: Sequence[str]) -> tuple[Entry, ...]:
    """The rows of the table; ConfigError for unknown methods, options without a value and rows of one name."""
    entries = tuple(Entry(text) for text in written)
    seen: dict[str, Entry] = {BASE: Entry(BASE)}
    for entry in entries:
        methods.find(entry.method)
        for part in entry.written.split(",")[1:]:
            if not re.fullmatch(r"\s*[A-Za-z_][\w-]*=.+", part):
                raise ConfigError(f"{entry.written}: {part!r} is no option; write METHOD,name=value,name=value")
        refused = sorted((CompareConfig.settled - {"learning_rate"} | ALIKE) & entry.options.keys())
        if refused:
            raise ConfigError(f"{entry.written}: {refused[0]} is the same for all methods of a comparison")
        if entry.name in seen:
            raise ConfigError(f"{entry.written} and {seen[entry.name].written} would be one row of the table")
        seen[entry.name] = entry
    return entries


def choose_baselines(config: CompareConfig, entries: Sequence[Entry], sources: Mapping[str, int]) -> frozenset[str]:
    """Those that were named, else all entries that learn from one source alone, else the first."""
    if config.baselines is None:
        return frozenset(name for name, num in sources.items() if num == 1) or frozenset({entries[0].name})
    labels = {text: entry.name for entry in entries for text in (entry.written, entry.label, entry.name)}
    for text in config.baselines:
        if text not in labels:
            raise ConfigError(f"--baselines: {text!r} is not compared; there are {', '.join(e.label for e in entries)}")
    return frozenset(labels[text] for text in config.baselines)


def write_problems(plan: Plan, contents: Mapping[str, str] | None = None) -> None:
    """Write the problems that every method is validated and tested on, once; DataError or ConfigError for bad data.

    `contents` are the fingerprints of what runs read beside them (analysis.contents), kept in the plan.

    Validation and tests share no problem: without data of its own, validation takes the first problems of each test
    that is in distribution, and that test goes on behind them.
    """
    config, folder = plan.config, RunFolder(plan.root)
    if (plan.root / PLAN).exists():
        check_files(plan.root, sealing.read_sealed(plan.root / PLAN, required=True).get("files"))
        return
    if plan.problems_path("validation").exists():  # an earlier version ended with it
        seal_plan(plan, contents)
        return
    inside = [test for test in plan.tests if test.role == "in"]
    taken = {test.name: 0 for test in plan.tests}
    if config.validation is None:
        for index in range(config.num_validation_problems):
            taken[inside[index % len(inside)].name] += 1
    validation: list[Problem] = []
    for test in plan.tests:
        num = taken[test.name]
        found = load_column(config, test, num + config.num_test_problems)
        if len(found) <= num:
            raise ConfigError(f"--tests: {test.dataset} has {len(found)} problems, of which validation takes {num}")
        found = [replace(problem, id=f"{test.name}-{problem.id}") for problem in found]
        validation += found[:num]
        folder.write_text(f"problems/{test.name}.jsonl", rows(found[num:]))
    if config.validation is not None:
        validation = load_dataset(
            config.validation,
            split="heldout",
            num_problems=config.num_validation_problems,
            seed=config.seed,
            verifier=config.verifier,
        )
    folder.write_text("problems/validation.jsonl", rows(validation))
    seal_plan(plan, contents)


def seal_plan(plan: Plan, contents: Mapping[str, str] | None = None) -> None:
    """Write down what the comparison is made of, so that a change of it is noticed."""
    names = [CONFIG, *(f"problems/{name}.jsonl" for name in ("validation", *(test.name for test in plan.tests)))]
    about = {
        "schema": 2,
        "inputs": dict(contents or {}),
        "files": {name: fingerprint(plan.root / name) for name in names if (plan.root / name).exists()},
    }
    RunFolder(plan.root).write_json(PLAN, sealing.add_seal(about))


def check_config(root: Path) -> None:
    """Raise DamageError where a comparison's configuration is not what was written."""
    if (root / PLAN).exists():
        files = sealing.read_sealed(root / PLAN, required=True).get("files", {})
        check_files(root, {name: files[name] for name in (CONFIG,) if name in files})


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file; DamageError where it cannot be read."""
    content = read_bytes(path, DamageError)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def check_files(root: Path, files: Any) -> None:
    """Raise DamageError, which names the file, where one of `files` (name -> fingerprint) is not what was written."""
    for name, expected in files.items() if isinstance(files, dict) else ():
        if fingerprint(root / name) != expected:
            raise DamageError(f"{root / name} was changed or damaged (its sha256 is another one): {sealing.REMEDY}")
