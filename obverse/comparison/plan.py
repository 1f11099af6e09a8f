"""The plan of a comparison: entries, test sets, and one trial per entry, learning rate and seed. Imports no torch."""

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
from obverse.estimator.schedule import TrainingSchedule, as_schedule
from obverse.runtime import integrity as sealing
from obverse.runtime.fingerprint import rows as rows_of
from obverse.runtime.json_lines import read_bytes
from obverse.runtime.output_dir import free_folder, slug
from obverse.runtime.run_dir import RunFolder
from obverse.training.teacher_options import (
    TEACHER_OPTIONS,
    check_teacher_options,
    check_teacher_rows,
    used_teacher_options,
)
from obverse.training.validate import check, check_data, load_problems
from obverse.types import Problem

NEVER = 10**7  # steps: the budget ends a run
GRID_SEED = 1_000  # the learning-rate search uses a seed that no run has
KEEP_ALL = 10**6
BASE = "base"
PLAN = "plan.json"
CONFIG = "comparison.yaml"
ROOM = "free some space and repeat the command to continue"
# options that an entry may not set
ALIKE = frozenset(
    {"budget", "budget_in", "seed", "model", "dataset", "dataset_split", "num_problems", "verifier", "output_dir"}
)


@dataclass(frozen=True)
class Entry:
    """One row of the table: a method with options, given as `hpt,gate=1`."""

    text: str

    @property
    def method(self) -> str:
        return self.text.split(",")[0]

    @property
    def options(self) -> dict[str, str]:
        pairs = [part.partition("=") for part in self.text.split(",")[1:]]
        return {name.strip().replace("-", "_"): value.strip() for name, _, value in pairs}

    @property
    def label(self) -> str:
        """The label of the row, `hpt gate=1`; for a method in a user's file, `file.py:name`, it is `name`."""
        return " ".join([self.method.rpartition(":")[2], *(f"{name}={value}" for name, value in self.options.items())])

    @property
    def name(self) -> str:
        """The label with characters that are valid in a folder's name."""
        return re.sub(r"[^A-Za-z0-9._]+", "-", self.label).strip("-.")

    def error(self, error: ConfigError) -> ConfigError:
        """The error with the entry's label before every line."""
        return ConfigError("\n".join(f"{self.label}: {line}" for line in str(error).splitlines()))


@dataclass(frozen=True)
class Trial:
    """One run: an entry with a seed. A trial of the grid has its learning rate; others use the rate that was chosen."""

    entry: Entry
    seed: int
    rate: float | None = None
    is_grid: bool = False

    @property
    def folder(self) -> Path:
        """The run folder, relative to the comparison's folder."""
        if self.is_grid:
            return Path("grid", self.entry.name, f"rate-{self.rate:g}")
        return Path("runs", self.entry.name, f"seed-{self.seed}")


@dataclass(frozen=True)
class Plan:
    """A checked comparison; `root` is its folder."""

    config: CompareConfig
    root: Path
    entries: tuple[Entry, ...]
    tests: tuple[Column, ...]
    baselines: frozenset[str] = field(default_factory=frozenset)  # names of entries
    dataset: str = ""  # fingerprint of the training rows of the first seed

    @cached_property
    def seeds(self) -> list[int]:
        return list(range(self.config.seed, self.config.seed + self.config.seeds))

    def rates(self, entry: Entry) -> tuple[float, ...]:
        """The learning rates to try for an entry; empty if the entry sets its own."""
        return () if "learning_rate" in entry.options else self.config.learning_rates or ()

    def grid(self, entry: Entry) -> list[Trial]:
        """The trials that choose the entry's learning rate; empty if there is at most one rate."""
        rates = self.rates(entry)
        return [Trial(entry, GRID_SEED + self.config.seed, rate, True) for rate in rates if len(rates) > 1]

    def trials(self) -> list[Trial]:
        """All trials in the order in which they start: the grid, then the first seed of every entry, and so on."""
        grid = [trial for entry in self.entries for trial in self.grid(entry)]
        return grid + [Trial(entry, seed) for seed in self.seeds for entry in self.entries]

    def run_options(self, trial: Trial, rate: float | None) -> dict[str, Any]:
        """The options of the trial's run; with `rate` None the method's default applies."""
        config, budget = self.config, self.budget(trial.entry)
        interval = 1 / config.num_marks if config.num_marks > 1 and not trial.is_grid else 0  # 0: at the end alone
        in_steps = config.budget_in == "steps"
        return {
            "lr_scheduler_type": "constant",  # other schedules need the number of steps, which is not known
            **shared(config, self.teacher_options(trial.entry)),
            **({} if rate is None else {"learning_rate": rate}),
            **trial.entry.options,
            "max_steps": budget if in_steps else NEVER,
            **({} if in_steps else {"budget": budget, "budget_in": config.budget_in}),
            "seed": trial.seed,
            "output_dir": str(self.root / trial.folder),
            "eval_dataset": str(self.problems_path("validation")),
            "num_eval_problems": 10**9,
            "eval_steps": interval,
            "save_steps": interval,
            "save_minutes": 0,
            "save_total_limit": KEEP_ALL,  # a stopped run saves additional checkpoints, and any of them may be the best
            "log_completions": config.log_completions and not trial.is_grid,
            "resume_from_checkpoint": "auto",
            **self.tracker_options(trial),
        }

    def teacher_options(self, entry: Entry) -> frozenset[str]:
        """The names of the teacher options that the entry's method uses.

        Raises ConfigError for options that the method refuses.
        """
        try:
            config = resolve(entry.method, methods.find(entry.method), {"learning_rate": 1.0, **entry.options})
        except ConfigError as error:
            raise entry.error(error) from error
        return used_teacher_options(as_schedule(methods.build(config.method, config.method_options)))

    def budget(self, entry: Entry) -> int:
        """The budget of each of the entry's runs: what training its teacher took is spent already."""
        cost = self.config.teacher_cost
        return self.config.budget - (cost if cost and "teacher_model" in self.teacher_options(entry) else 0)

    def tracker_options(self, trial: Trial) -> dict[str, str]:
        """The name of the trial's run in trackers, and the group of all runs of the comparison; {} without trackers."""
        if self.config.report_to is None:
            return {}
        return {"run_name": "-".join(trial.folder.parts), "run_group": self.config.run_group or self.root.name}

    def resolved(self, trial: Trial, rate: float | None) -> TrainConfig:
        """The trial's configuration; ConfigError names the entry with invalid options."""
        entry = trial.entry
        try:
            return resolve(entry.method, methods.find(entry.method), self.run_options(trial, rate))
        except ConfigError as error:
            raise entry.error(error) from error

    def problems_path(self, name: str) -> Path:
        return self.root / "problems" / f"{name}.jsonl"

    def figures_path(self, name: str, step: str, test: str, seed: int) -> Path:
        """The samples of an entry's last or best step on a test: one file per seed."""
        return self.root / "figures" / name / step / test / f"seed-{seed}.jsonl"


def shared(config: CompareConfig, teacher_options: frozenset[str]) -> dict[str, Any]:
    """The training options that were given for every run; of the options of teachers those in `teacher_options`."""
    names = config.model_fields_set & {*TrainConfig.model_fields} - {
        "budget",
        "budget_in",
        "seed",
        "output_dir",
        "report",
    }
    return {name: getattr(config, name) for name in sorted(names - (TEACHER_OPTIONS - teacher_options))}


def make_plan(config: CompareConfig) -> Plan:
    """Check everything that can be checked before a model is loaded; raises ConfigError or DataError."""
    for name in sorted(CompareConfig.settled & config.model_fields_set):
        raise ConfigError(f"--{name}: {SETTLED.get(name, 'the comparison sets it for every run')}")
    root = config.output_dir or free_folder(Path("runs"), f"compare-{slug(config.dataset)}", create=False)
    entries = read_entries(config.methods)
    tests = read_tests(config)
    plan = Plan(config, root, entries, tests)
    refuse_unused_teacher_options(plan)
    num_sources: dict[str, int] = {}
    problems: list[Problem] = []
    for entry in entries:
        schedule, problems = check_entry(plan, entry, problems)
        num_sources[entry.name] = sum(
            any(wants(method, kind) for method in schedule.methods) for kind in ("rollouts", "demonstrations", "pairs")
        )
    baselines = choose_baselines(config, entries, num_sources)
    return Plan(config, root, entries, tests, baselines, rows_of(problems, row_verifiers=config.verifier is None))


def refuse_unused_teacher_options(plan: Plan) -> None:
    """Raise ConfigError for a teacher option of the comparison that has no effect on any entry."""
    given = {name for name in TEACHER_OPTIONS if getattr(plan.config, name) is not None}
    used = frozenset[str]().union(*(plan.teacher_options(entry) for entry in plan.entries)) if given else frozenset()
    for name in sorted(given - used):
        raise ConfigError(f"--{name}: no method of this comparison uses it: leave it out")


def check_entry(plan: Plan, entry: Entry, problems: list[Problem]) -> tuple[TrainingSchedule, list[Problem]]:
    """Check an entry's options and data; returns its methods and the training problems, loaded if `problems` is empty.

    Raises ConfigError if the entry cannot be trained with them.
    """
    rates = plan.rates(entry)
    config = plan.resolved(Trial(entry, plan.config.seed), rates[0] if rates else None)
    schedule = as_schedule(methods.build(config.method, config.method_options))
    if not all(method.trains_policy for method in schedule.methods):
        raise ConfigError(f"{entry.label}: trains no policy, so there is nothing to compare")
    check(schedule, config)
    check_teacher_options(config, schedule)
    problems = problems or load_problems(config, schedule)
    for method in schedule.methods:
        check_data(config, method, problems)
    check_teacher_rows(config, schedule, problems)
    return schedule, problems


SETTLED = {
    "learning_rate": "give --learning_rates: one value for every method, or several to choose from",
    "max_steps": "every run ends with its budget: --budget 100 --budget_in steps",
    "num_train_epochs": "every run ends with its budget: --budget 100 --budget_in steps",
    "eval_dataset": "give --validation and --tests",
    "eval_steps": "give --num_marks, how often a run is validated",
    "save_steps": "give --num_marks, how often a run is validated and saved",
    "save_minutes": "give --num_marks, how often a run is validated and saved",
    "push_to_hub": "push one of its runs by obverse export RUN --push_to_hub owner/name",
}


def read_entries(texts: Sequence[str]) -> tuple[Entry, ...]:
    """The rows of the table; ConfigError for unknown methods, options without a value and duplicate rows."""
    entries = tuple(Entry(text) for text in texts)
    entries_by_name: dict[str, Entry] = {BASE: Entry(BASE)}
    for entry in entries:
        methods.find(entry.method)
        for part in entry.text.split(",")[1:]:
            if not re.fullmatch(r"\s*[A-Za-z_][\w-]*=.+", part):
                raise ConfigError(f"{entry.text}: {part!r} is not an option; write METHOD,name=value,name=value")
        refused = sorted((CompareConfig.settled - {"learning_rate"} | ALIKE) & entry.options.keys())
        if refused:
            raise ConfigError(f"{entry.text}: {refused[0]} is the same for all methods of a comparison")
        if entry.name in entries_by_name:
            raise ConfigError(f"{entry.text} and {entries_by_name[entry.name].text} would be one row of the table")
        entries_by_name[entry.name] = entry
    return entries


def choose_baselines(config: CompareConfig, entries: Sequence[Entry], num_sources: Mapping[str, int]) -> frozenset[str]:
    """The names of the baselines: those of --baselines, or all entries with a single source, or the first entry."""
    if config.baselines is None:
        return frozenset(name for name, num in num_sources.items() if num == 1) or frozenset({entries[0].name})
    labels = {text: entry.name for entry in entries for text in (entry.text, entry.label, entry.name)}
    for text in config.baselines:
        if text not in labels:
            raise ConfigError(f"--baselines: {text!r} is not compared; there are {', '.join(e.label for e in entries)}")
    return frozenset(labels[text] for text in config.baselines)


def write_problems(plan: Plan, contents: Mapping[str, str] | None = None) -> None:
    """Write the validation and test problems of all entries, once; DataError or ConfigError for bad data.

    `contents` are the fingerprints of the other inputs (`input_fingerprints.contents`), stored in the plan.

    Validation and tests share no problem: without --validation, the first problems of each test in distribution are
    the validation problems, and the test has the problems after them.
    """
    config, folder = plan.config, RunFolder(plan.root)
    if (plan.root / PLAN).exists():
        check_files(plan.root, sealing.read_sealed(plan.root / PLAN, required=True).get("files"))
        return
    if plan.problems_path("validation").exists():  # written by an earlier version, which had no plan file
        seal_plan(plan, contents)
        return
    num_for_validation = validation_counts(plan)
    validation: list[Problem] = []
    for test in plan.tests:
        num = num_for_validation[test.name]
        problems = load_column(config, test, num + config.num_test_problems)
        if len(problems) <= num:
            raise ConfigError(f"--tests: {test.dataset} has {len(problems)} problems, of which validation takes {num}")
        problems = [replace(problem, id=f"{test.name}-{problem.id}") for problem in problems]
        validation += problems[:num]
        folder.write_text(f"problems/{test.name}.jsonl", rows(problems[num:]))
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


def validation_counts(plan: Plan) -> dict[str, int]:
    """How many problems of each test are used for validation; 0 for all tests with --validation."""
    counts = {test.name: 0 for test in plan.tests}
    in_domain = [test.name for test in plan.tests if test.role == "in"]
    if plan.config.validation is None:
        for index in range(plan.config.num_validation_problems):
            counts[in_domain[index % len(in_domain)]] += 1
    return counts


def seal_plan(plan: Plan, contents: Mapping[str, str] | None = None) -> None:
    """Store the fingerprints of inputs and files, so that changes are detected."""
    names = [CONFIG, *(f"problems/{name}.jsonl" for name in ("validation", *(test.name for test in plan.tests)))]
    about = {
        "schema": 2,
        "inputs": dict(contents or {}),
        "files": {name: fingerprint(plan.root / name) for name in names if (plan.root / name).exists()},
    }
    RunFolder(plan.root).write_json(PLAN, sealing.add_seal(about))


def check_config(root: Path) -> None:
    """Raise DamageError if a comparison's configuration file was changed."""
    if (root / PLAN).exists():
        files = sealing.read_sealed(root / PLAN, required=True).get("files", {})
        check_files(root, {name: files[name] for name in (CONFIG,) if name in files})


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file; DamageError where it cannot be read."""
    content = read_bytes(path, DamageError)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def check_files(root: Path, files: Any) -> None:
    """Raise DamageError, which names the file, if one of `files` (name -> fingerprint) was changed."""
    for name, expected in files.items() if isinstance(files, dict) else ():
        if fingerprint(root / name) != expected:
            raise DamageError(f"{root / name} was changed or damaged (its sha256 differs): {sealing.REMEDY}")
