"""The test sets of a comparison, which are the columns of its table. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from obverse.config.compare import CompareConfig
from obverse.data import EMBEDDED, benchmarks, difficulties, load_dataset
from obverse.data.layouts import ANSWERS, DEMONSTRATIONS, LAYOUTS
from obverse.errors import ConfigError
from obverse.types import Problem, to_json

# keys that would change the layout of a row
LAYOUT_KEYS = frozenset(DEMONSTRATIONS).union(ANSWERS, *(keys for keys, _ in LAYOUTS.values()))
LEVELS = ("easy", "medium", "hard")
Role = Literal["in", "ood", "seen", "benchmark"]
BENCHMARK = "benchmark"  # used as the split of a benchmark


@dataclass(frozen=True)
class Column:
    """A test set: the name of its column, and the data set and split of its problems."""

    name: str
    dataset: str
    split: str

    @property
    def role(self) -> Role:
        if self.split == BENCHMARK:
            return "benchmark"
        return "ood" if self.name.startswith("ood") else "seen" if self.name.startswith("seen") else "in"


def read_tests(config: CompareConfig) -> tuple[Column, ...]:
    """The test sets of --tests; by default the difficulty levels of the embedded task that is trained on."""
    tests = []
    for text in config.tests or default_tests(config.dataset):
        name, equals, source = text.partition("=")
        if not equals and benchmarks.find(text).protocol is None:
            tests.append(Column(text, text, BENCHMARK))
            continue
        if not equals or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or not source or name == "validation":
            raise ConfigError(
                f"--tests: expects name=dataset, name=dataset@split or a benchmark without a protocol, not {text!r}"
            )
        dataset, separator, split = source.rpartition("@") if "@" in source else (source, "", "")
        tests.append(Column(name, dataset, split if separator else "heldout"))
    names = [test.name for test in tests]
    if len(set(names)) < len(names):
        raise ConfigError(f"--tests: names must be distinct: {', '.join(names)}")
    if config.validation is None and not any(test.role == "in" for test in tests):
        raise ConfigError(
            "--tests: no test set is in distribution, from which validation problems are taken: give --validation"
        )
    return tuple(tests)


def default_tests(dataset: str) -> list[str]:
    """Three difficulty levels of an embedded task, and its ood split; ConfigError for other data."""
    task = dataset.partition(":")[0]
    if task not in EMBEDDED:
        raise ConfigError(f"--tests: is required, because {dataset} has no held-out split")
    low, high = difficulties(dataset, "heldout")
    levels = list(range(low, high + 1))
    cuts = [round(i * len(levels) / len(LEVELS)) for i in range(len(LEVELS) + 1)]
    parts = [levels[a:b] for a, b in pairwise(cuts)]
    levels_by_name = [(name, part) for name, part in zip(LEVELS, parts, strict=True) if part]
    return [f"{name}={task}:{part[0]}-{part[-1]}" for name, part in levels_by_name] + [f"ood={task}@ood"]


def load_column(config: CompareConfig, test: Column, num_problems: int) -> list[Problem]:
    """The problems of a test set: `num_problems`, or all of a benchmark unless --num_test_problems is given."""
    if test.split != BENCHMARK:
        return load_dataset(
            test.dataset, split=test.split, num_problems=num_problems, seed=config.seed, verifier=config.verifier
        )
    num = num_problems if "num_test_problems" in config.model_fields_set else None
    named = benchmarks.find(test.dataset).benchmark
    return benchmarks.read(named, config.benchmark_dir, num, config.seed, config.verifier).problems


def rows(problems: Sequence[Problem]) -> str:
    """Problems as JSON Lines. A user's verifier is not stored; it is given again when the rows are read."""
    lines = []
    for problem in problems:
        meta = {name: value for name, value in problem.meta.items() if name not in LAYOUT_KEYS}
        row = {"id": problem.id, "prompt": problem.prompt, "answer": problem.answer}
        if problem.verifier is not None and ".py" not in problem.verifier:
            row["verifier"] = problem.verifier
        lines.append(to_json({**meta, **row}) + "\n")
    return "".join(lines)
