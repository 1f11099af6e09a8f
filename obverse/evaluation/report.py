"""Scores of problems and the report on them: means, pass@k and maj@k with confidence intervals, by difficulty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from obverse.evaluation.bootstrap import interval, nested_interval
from obverse.evaluation.metrics import pass_at_k
from obverse.notebook_html import block, paragraph, table, text
from obverse.redact import flat

SHARE = (0.0, 1.0)


@dataclass(frozen=True)
class Score:
    """Counts of one problem's samples of one evaluation seed.

    Attributes:
        num_truncated: Samples that reached the token limit.
        num_formatted: Samples with an answer in the expected format.
        num_ungraded: Samples without a grade; `reasons` counts why.
        texts, correct: Of every sample, if they are stored.
        majority: maj@k by k.
        round: The evaluation seed.
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


@dataclass(frozen=True, repr=False)
class Report:
    """The result of one evaluation; `path` is its JSON file, `notes` are remarks that belong to the metrics."""

    name: str
    scores: list[Score]
    k: tuple[int, ...]
    path: Path | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Report {flat(self.name)}: {', '.join([f'{self._num_problems} problems', *self._means()])}>"

    def _repr_html_(self) -> str:
        header = ["", "problems", *self.figures(), "truncated"] if self.scores else ["problems"]
        rows = [
            [level, row["problems"], *(_with_interval(name, row) for name in self.figures()), f"{row['truncated']:.1%}"]
            for level, row in (self.summary() if self.scores else {}).items()
        ]
        notes = [paragraph(text(note), is_soft=True) for note in self.notes]
        return block(paragraph(text(f"{self.name}, with 95 % intervals")), table(header, rows), *notes)

    @property
    def _num_problems(self) -> int:
        return sum(score.round == self.scores[0].round for score in self.scores)

    def _means(self) -> list[str]:
        """The name and the mean of every metric."""
        figures = self.figures() if self.scores else {}
        return [f"{name} {fmean(map(figure, self.scores)):.1%}" for name, figure in figures.items()]

    def groups(self) -> dict[str, list[Score]]:
        """Return the scores by difficulty, followed by "all"; only "all" if there is one difficulty."""
        levels = sorted({score.difficulty for score in self.scores}, key=lambda level: (len(level), level))
        by_level = {level: [score for score in self.scores if score.difficulty == level] for level in levels if level}
        return by_level | {"all": self.scores} if len(by_level) != 1 else {"all": self.scores}

    def pass_at(self, k: int, scores: Sequence[Score] | None = None) -> float:
        """Return the mean of the unbiased pass@k over problems."""
        chosen = self.scores if scores is None else scores
        return fmean(pass_at_k(score.num_samples, score.num_correct, k) for score in chosen)

    def figures(self) -> dict[str, Callable[[Score], float]]:
        """Return the metrics by name (avg@n, pass@k, maj@k), each as a function of a problem's score."""
        num = self.scores[0].num_samples
        figures: dict[str, Callable[[Score], float]] = {
            f"avg@{num}": lambda score: score.num_correct / score.num_samples
        }
        for k in self.k:
            figures[f"pass@{k}"] = lambda score, k=k: pass_at_k(score.num_samples, score.num_correct, k)  # type: ignore[misc]
        for k in self.k:
            if k > 1 and all(k in score.majority for score in self.scores):
                figures[f"maj@{k}"] = lambda score, k=k: score.majority[k]  # type: ignore[misc]
        return figures

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return a row by difficulty: problems, avg@n, pass@k, maj@k, fractions truncated, formatted and ungraded.

        `interval` is the 95 % confidence interval of avg@n, `intervals` has those of the other metrics. With several
        seeds, intervals cover the variance between seeds too.
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
        main, *further = means
        return {
            "problems": len(next(iter(tables.values()))[0]),
            main: means[main],
            "interval": spans[main],
            **{name: means[name] for name in further},
            "intervals": {name: spans[name] for name in further},
            "truncated": sum(score.num_truncated for score in scores) / num,
            "formatted": sum(score.num_formatted for score in scores) / num,
            "ungraded": sum(score.num_ungraded for score in scores) / num,
            "reasons": {reason: count / num for reason, count in reasons.most_common()},
        }

    def table(self) -> RenderableType:
        """Return the summary for a console: all metrics with intervals, then by difficulty if there are several."""
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
        levels.add_row("problems", *(str(level_row["problems"]) for level_row in summary.values()))
        for name in (*self.figures(), "truncated"):
            levels.add_row(name, *(f"{level_row[name]:.1%}" for level_row in summary.values()))
        return Group(whole, levels, *notes)


def _with_interval(name: str, row: Mapping[str, Any]) -> str:
    """A metric of a row of a summary as a percentage, with its interval."""
    low, high = row["intervals"].get(name, row["interval"])
    return f"{row[name]:.1%} ({low:.1%} to {high:.1%})"


def by_round(scores: Sequence[Score], figure: Callable[[Score], float]) -> list[list[float]]:
    """Return a metric of every problem, one row per seed with the same order of problems; [seeds][problems]."""
    rounds: dict[int, dict[str, float]] = {}
    for number, score in enumerate(scores):
        row = rounds.setdefault(score.round, {})
        # problem ids may repeat in scores that do not come from a data set
        row[score.problem if score.problem not in row else f"{score.problem}\0{number}"] = figure(score)
    first_round, *further = rounds.values()
    return [list(first_round.values()), *([row[name] for name in first_round] for row in further)]


def span(table: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean of fractions [seeds][problems]."""
    return nested_interval(table, bounds=SHARE) if len(table) > 1 else interval(table[0], bounds=SHARE)


def _columns(title: str, names: Sequence[str]) -> Table:
    table = Table(title=Text(flat(title)), title_justify="left")
    for number, name in enumerate(names):
        table.add_column(Text(flat(name)), justify="right" if number else "left")
    return table
