"""The columns of a comparison's table: what their names mean, and the problems behind them. No torch here."""

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

# columns that would turn a row into one of another layout
LAYOUT_KEYS = frozenset(DEMONSTRATIONS).union(ANSWERS, *(keys for keys, _ in LAYOUTS.values()))
LEVELS = ("easy", "medium", "hard")
Role = Literal["in", "ood", "seen", "benchmark"]
BENCHMARK = "benchmark"  # in place of a column's split


@dataclass(frozen=True)
class Column:
    """A column of the table: a name, and where its problems come from."""

    name: str
    dataset: str
    split: str

    @property
    def role(self) -> Role:
        if self.split == BENCHMARK:
            return "benchmark"
        return "ood" if self.name.startswith("ood") else "seen" if self.name.startswith("seen") else "in"


def read_tests(config: CompareConfig) -> tuple[Column, ...]:
    """The columns of the table; without --tests the levels of the embedded task that is trained on."""
    found = []
    for text in config.tests or default_tests(config.dataset):
        name, equals, place = text.partition("=")
        if not equals and benchmarks.find(text).protocol is None:
            found.append(Column(text, text, BENCHMARK))
            continue
        if not equals or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or not place or name == "validation":
            raise ConfigError(
                f"--tests: expects name=dataset, name=dataset@split or a benchmark without a protocol, not {text!r}"
            )
        dataset, at, split = place.rpartition("@") if "@" in place else (place, "", "")
        found.append(Column(name, dataset, split if at else "heldout"))
    names = [test.name for test in found]
    if len(set(names)) < len(names):
        raise ConfigError(f"--tests: a name stands there twice: {', '.join(names)}")
    if config.validation is None and not any(test.role == "in" for test in found):
        raise ConfigError("--tests: none is in distribution, of which validation could take some: give --validation")
    return tuple(found)


def default_tests(dataset: str) -> list[str]:
    """The difficulties of an embedded task in three levels, and its ood split; ConfigError for other data."""
    task = dataset.partition(":")[0]
    if task not in EMBEDDED:
        raise ConfigError(f"--tests: say what to test on, for {dataset} has no held-out problems of its own")
    low, high = difficulties(dataset, "heldout")
    levels = list(range(low, high + 1))
    cuts = [round(i * len(levels) / len(LEVELS)) for i in range(len(LEVELS) + 1)]
    parts = [levels[a:b] for a, b in pairwise(cuts)]
    named = [(name, part) for name, part in zip(LEVELS, parts, strict=True) if part]
    return [f"{name}={task}:{part[0]}-{part[-1]}" for name, part in named] + [f"ood={task}@ood"]


def load_column(config: CompareConfig, test: Column, num_problems: int) -> list[Problem]:
    """The problems of a test: so many, but all of a benchmark unless --num_test_problems is given."""
    if test.split != BENCHMARK:
        return load_dataset(
            test.dataset, split=test.split, num_problems=num_problems, seed=config.seed, verifier=config.verifier
        )
    num = num_problems if "num_test_problems" in config.model_fields_set else None
    named = benchmarks.find(test.dataset).benchmark
    return benchmarks.read(named, config.benchmark_dir, num, config.seed, config.verifier).problems


def rows(problems: Sequence[Problem]) -> str:
    """Problems in the library's own row layout; a user's verifier is no part of data, and is given again when read."""
    lines = []
    for problem in problems:
        meta = {name: value for name, value in problem.meta.items() if name not in LAYOUT_KEYS}
        row = {"id": problem.id, "prompt": problem.prompt, "answer": problem.answer}
        if problem.verifier is not None and ".py" not in problem.verifier:
            row["verifier"] = problem.verifier
        lines.append(to_json({**meta, **row}) + "\n")
    return "".join(lines)
