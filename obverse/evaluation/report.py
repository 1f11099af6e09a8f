"""Scores of problems, and the report that they make: means, pass@k and maj@k with intervals, by difficulty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from obverse.evaluation.bootstrap import interval, nested_interval
from obverse.evaluation.metrics import pass_at_k
from obverse.redact import flat

SHARE = (0.0, 1.0)


@dataclass(frozen=True)
class Score:
    """One problem's samples of one seed: how many, and how many were correct, cut off, readable, without a verdict.

    `reasons` counts why there was no verdict; `majority` is maj@k by k; `texts` and `correct` are those of the samples
    where they were kept. `round` is the evaluation's seed.
    """

    problem: str
    difficulty: str
    num_samples: int
    num_correct: int
    num_truncated: int
    num_formatted: int
    num_ungraded: int
    texts: list[str] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)
    majority: dict[int, float] = field(default_factory=dict)
    num_tokens: int = 0
    round: int = 0


@dataclass(frozen=True)
class Report:
    """The result of one evaluation; `path` is its JSON file, `notes` what a reader must know beside the figures."""

    name: str
    scores: list[Score]
    k: tuple[int, ...]
    path: Path | None = None
    notes: tuple[str, ...] = ()

    def groups(self) -> dict[str, list[Score]]:
        """Scores by difficulty, then all of them."""
        levels = sorted({score.difficulty for score in self.scores}, key=lambda level: (len(level), level))
        found = {level: [score for score in self.scores if score.difficulty == level] for level in levels if level}
        return found | {"all": self.scores} if len(found) != 1 else {"all": self.scores}

    def pass_at(self, k: int, scores: Sequence[Score] | None = None) -> float:
        """Mean unbiased pass@k over problems."""
        chosen = self.scores if scores is None else scores
        return fmean(pass_at_k(score.num_samples, score.num_correct, k) for score in chosen)

    def figures(self) -> dict[str, Callable[[Score], float]]:
        """What each figure with an interval is of one problem, by name: avg@n, pass@k, maj@k."""
        num = self.scores[0].num_samples
        found: dict[str, Callable[[Score], float]] = {f"avg@{num}": lambda score: score.num_correct / score.num_samples}
        for k in self.k:
            found[f"pass@{k}"] = lambda score, k=k: pass_at_k(score.num_samples, score.num_correct, k)  # type: ignore[misc]
        for k in self.k:
            if k > 1 and all(k in score.majority for score in self.scores):
                found[f"maj@{k}"] = lambda score, k=k: score.majority[k]  # type: ignore[misc]
        return found

    def summary(self) -> dict[str, dict[str, Any]]:
        """By difficulty: problems, avg@n, pass@k and maj@k with 95 % intervals, shares truncated, formatted, ungraded.

        `interval` is that of avg@n, `intervals` has the others. Over several seeds an interval is for other seeds too.
        """
        return {level: self._row(scores) for level, scores in self.groups().items()}

    def _row(self, scores: list[Score]) -> dict[str, Any]:
        num = sum(score.num_samples for score in scores)
        tables = {name: by_round(scores, figure) for name, figure in self.figures().items()}
        means = {name: fmean(value for row in table for value in row) for name, table in tables.items()}
        spans = {name: list(span(table)) for name, table in tables.items()}
        reasons = Counter[str]()
        for score in scores:
            reasons.update(score.reasons)
        first, *others = means
        return {
            "problems": len(next(iter(tables.values()))[0]),
            first: means[first],
            "interval": spans[first],
            **{name: means[name] for name in others},
            "intervals": {name: spans[name] for name in others},
            "truncated": sum(score.num_truncated for score in scores) / num,
            "formatted": sum(score.num_formatted for score in scores) / num,
            "ungraded": sum(score.num_ungraded for score in scores) / num,
            "reasons": {reason: count / num for reason, count in reasons.most_common()},
        }

    def table(self) -> RenderableType:
        """The summary for a console: every figure with its interval, then by difficulty where there are several."""
        summary = self.summary()
        row = summary["all"]
        first = next(iter(self.figures()))
        whole = _columns(f"{self.name}: {row['problems']} problems", ("", "", "95 % interval"))
        for name in self.figures():
            low, high = row["interval"] if name == first else row["intervals"][name]
            whole.add_row(name, f"{row[name]:.1%}", f"{low:.1%} .. {high:.1%}")
        for name in ("truncated", "formatted", "ungraded"):
            whole.add_row(name, f"{row[name]:.1%}", "")
        for reason, share in row["reasons"].items():
            whole.add_row(Text(f"  {flat(reason)}"), f"{share:.1%}", "")
        notes = [Text(flat(note)) for note in self.notes]
        if len(summary) == 1:
            return Group(whole, *notes)
        levels = _columns("by difficulty", ("", *summary))
        levels.add_row("problems", *(str(each["problems"]) for each in summary.values()))
        for name in (*self.figures(), "truncated"):
            levels.add_row(name, *(f"{each[name]:.1%}" for each in summary.values()))
        return Group(whole, levels, *notes)


def by_round(scores: Sequence[Score], figure: Callable[[Score], float]) -> list[list[float]]:
    """A figure of every problem, a row per seed, in one order of problems; [seeds][problems]."""
    rounds: dict[int, dict[str, float]] = {}
    for number, score in enumerate(scores):
        row = rounds.setdefault(score.round, {})
        # names may repeat where nobody promised that they differ
        row[score.problem if score.problem not in row else f"{score.problem}\0{number}"] = figure(score)
    first, *others = rounds.values()
    return [list(first.values()), *([row[name] for name in first] for row in others)]


def span(table: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The 95 % interval of the mean of shares [seeds][problems]."""
    return nested_interval(table, bounds=SHARE) if len(table) > 1 else interval(table[0], bounds=SHARE)


def _columns(title: str, names: Sequence[str]) -> Table:
    table = Table(title=Text(flat(title)), title_justify="left")
    for number, name in enumerate(names):
        table.add_column(Text(flat(name)), justify="right" if number else "left")
    return table
