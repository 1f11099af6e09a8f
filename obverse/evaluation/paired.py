"""Paired comparison of two models on the same problems: differences with intervals, problems gained and lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from obverse.errors import ConfigError, DamageError
from obverse.evaluation.bootstrap import Difference, paired
from obverse.evaluation.report import Report, by_round
from obverse.evaluation.result_file import read
from obverse.evaluation.sample_store import OTHER_OUTPUT
from obverse.redact import flat
from obverse.runtime import fingerprint
from obverse.runtime.file_writes import storage_errors
from obverse.runtime.integrity import add_seal
from obverse.runtime.json_lines import read_object
from obverse.runtime.output_dir import slug
from obverse.runtime.run_dir import RunFolder

MAX_LISTED = 20  # problem ids on the console; the file lists all of them


@dataclass(frozen=True)
class PairedComparison:
    """Differences second - first by metric; `gained` are the problems that only the second solved, `lost` the first."""

    name: str
    values: dict[str, tuple[float, float]]
    differences: dict[str, Difference]
    gained: list[str]
    lost: list[str]
    path: Path | None = None
    notes: tuple[str, ...] = ()

    def table(self) -> RenderableType:
        """Return the comparison for a console."""
        table = Table(title=Text(flat(self.name)), title_justify="left")
        for column in ("", "first", "second", "difference", "95 % interval", ""):
            table.add_column(column, justify="right" if column else "left")
        for figure, difference in self.differences.items():
            first, second = self.values[figure]
            remark = "" if difference.distinguishable else "not distinguishable"
            interval_text = f"{difference.low:+.1%} .. {difference.high:+.1%}"
            table.add_row(figure, f"{first:.1%}", f"{second:.1%}", f"{difference.mean:+.1%}", interval_text, remark)
        notes = [Text(flat(note)) for note in self.notes]
        return Group(table, listed_problems("gained", self.gained), listed_problems("lost", self.lost), *notes)


def listed_problems(kind: str, names: Sequence[str]) -> Text:
    """Return a line with the number of problems and the first ids."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return Text(flat(f"problems {kind}: {len(names)}" + (f" ({', '.join(names[:MAX_LISTED])}{more})" if names else "")))


def compare(first: Report, second: Report) -> PairedComparison:
    """Compare the metrics that both reports have. Raises ConfigError if they are not of the same problems."""
    figures = [name for name in first.figures() if name in second.figures()]
    values, differences = {}, {}
    for name in figures:
        first_values, second_values = (by_round(report.scores, report.figures()[name]) for report in (first, second))
        try:
            differences[name] = paired(second_values, first_values)
        except ValueError as error:
            raise ConfigError(f"{first.name} and {second.name}: {error}") from None
        values[name] = (_mean(first_values), _mean(second_values))
    before, after = solved(first), solved(second)
    names = list(dict.fromkeys(score.problem for score in first.scores))
    if set(names) != {score.problem for score in second.scores}:
        raise ConfigError(f"{first.name} and {second.name}: not the same problems")
    gained = [name for name in names if name in after - before]
    lost = [name for name in names if name in before - after]
    return PairedComparison(f"{second.name} against {first.name}", values, differences, gained, lost)


def solved(report: Report) -> set[str]:
    """Return the ids of the problems with at least one correct sample."""
    return {score.problem for score in report.scores if score.num_correct}


def write_pair(pair: PairedComparison, first: Report, second: Report) -> PairedComparison:
    """Write the comparison next to the second model's results, with a note if the sampling parameters differ.

    Both reports must have been written before.
    """
    assert first.path is not None and second.path is not None
    check_comparable([first, second])
    params = [read(path)["law"] for path in (first.path, second.path)]
    names = [name for name in params[0] if params[0][name] != params[1].get(name)]
    different = [f"{name} {params[0][name]} and {params[1].get(name)}" for name in names]
    notes = (f"not sampled alike: {', '.join(different)}",) if different else ()
    result: dict[str, Any] = {"schema": 2, "name": pair.name}
    result |= {"first": {"name": first.name, "result": str(first.path)}}
    result |= {"second": {"name": second.name, "result": str(second.path)}}
    result["metrics"] = {
        name: {
            "first": pair.values[name][0],
            "second": pair.values[name][1],
            "difference": difference.mean,
            "low": difference.low,
            "high": difference.high,
            "distinguishable": difference.distinguishable,
        }
        for name, difference in pair.differences.items()
    }
    result |= {"gained": pair.gained, "lost": pair.lost, "notes": list(notes)}
    folder = second.path.parent
    name = free_file_name(
        folder.parent, f"paired-{folder.name}-{slug(first.name.partition(' on ')[0])}", str(first.path)
    )
    with storage_errors(folder.parent / name, OTHER_OUTPUT):
        return replace(pair, path=RunFolder(folder.parent).write_json(name, add_seal(result)), notes=notes)


def check_comparable(reports: Sequence[Report]) -> None:
    """Raise ConfigError if the results are of different rows or were graded by different code.

    Fields that the result of an earlier version lacks are not compared.
    """
    results = [read(report.path) for report in reports if report.path is not None]
    rows = [result["rows"] for result in results if "rows" in result]
    graders = [result["grader"] for result in results if "code" in result.get("grader", {})]
    code = [", ".join(sorted(grader["code"].values())) for grader in graders]
    for name, hashes in (("rows", rows), ("verifier", code)):
        different = next((sha256 for sha256 in hashes if sha256 != hashes[0]), None)
        if different is not None:
            raise ConfigError(
                f"{reports[0].name} and the others are not of one {name}: sha256 {fingerprint.short(hashes[0])} and "
                f"{fingerprint.short(different)}: evaluate all of them with the same --dataset and --verifier"
            )


def free_file_name(folder: Path, stem: str, first: str) -> str:
    """Return `STEM.json`, with a number if that file compares with another model of the same name."""
    number, name = 1, f"{stem}.json"
    while (folder / name).exists() and read_object(folder / name, DamageError).get("first", {}).get("result") != first:
        number += 1
        name = f"{stem}-{number}.json"
    return name


def over_seeds(reports: Sequence[Report]) -> Report:
    """Combine the reports of a method's runs into one in which every run is a seed of `nested_interval`.

    Raises ConfigError if they are not of the same problems, or if one was sampled with several seeds.
    """
    names = [[score.problem for score in report.scores] for report in reports]
    check_comparable(reports)
    if any(ids != names[0] for ids in names):
        raise ConfigError("--over_seeds: the models were not evaluated on the same problems")
    if any(len({score.round for score in report.scores}) > 1 for report in reports):
        raise ConfigError("--over_seeds: each model is a seed: leave out --num_seeds")
    scores = [replace(score, round=number) for number, report in enumerate(reports) for score in report.scores]
    dataset = reports[0].name.partition(" on ")[2]
    return Report(f"{len(reports)} models as seeds on {dataset}", scores, reports[0].k)


def _mean(table: Sequence[Sequence[float]]) -> float:
    return sum(map(sum, table)) / (len(table) * len(table[0]))
