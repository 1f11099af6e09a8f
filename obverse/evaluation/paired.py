"""Two models on the same problems: the difference with its interval, and which problems were gained and lost."""

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
from obverse.evaluation.sample_store import ADVICE
from obverse.redact import flat
from obverse.runtime import fingerprint
from obverse.runtime.file_writes import storage_errors
from obverse.runtime.integrity import add_seal
from obverse.runtime.json_lines import read_object
from obverse.runtime.output_dir import slug
from obverse.runtime.run_dir import RunFolder

MAX_LISTED = 20  # names on the console; the file has all


@dataclass(frozen=True)
class Pair:
    """Second minus first, by figure; `gained` are problems that only second solved at least once, `lost` only first."""

    name: str
    values: dict[str, tuple[float, float]]
    differences: dict[str, Difference]
    gained: list[str]
    lost: list[str]
    path: Path | None = None
    notes: tuple[str, ...] = ()

    def table(self) -> RenderableType:
        """For a console."""
        table = Table(title=Text(flat(self.name)), title_justify="left")
        for column in ("", "first", "second", "difference", "95 % interval", ""):
            table.add_column(column, justify="right" if column else "left")
        for figure, found in self.differences.items():
            first, second = self.values[figure]
            said = "" if found.distinguishable else "not distinguishable"
            span = f"{found.low:+.1%} .. {found.high:+.1%}"
            table.add_row(figure, f"{first:.1%}", f"{second:.1%}", f"{found.mean:+.1%}", span, said)
        notes = [Text(flat(note)) for note in self.notes]
        return Group(table, listed("gained", self.gained), listed("lost", self.lost), *notes)


def listed(what: str, names: Sequence[str]) -> Text:
    """The first names and how many there are."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return Text(flat(f"problems {what}: {len(names)}" + (f" ({', '.join(names[:MAX_LISTED])}{more})" if names else "")))


def compare(first: Report, second: Report) -> Pair:
    """Both reports' common figures, problem by problem. Raises ConfigError when they are not of the same problems."""
    figures = [name for name in first.figures() if name in second.figures()]
    values, differences = {}, {}
    for name in figures:
        one, other = (by_round(report.scores, report.figures()[name]) for report in (first, second))
        try:
            differences[name] = paired(other, one)
        except ValueError as error:
            raise ConfigError(f"{first.name} and {second.name}: {error}") from None
        values[name] = (_mean(one), _mean(other))
    before, after = solved(first), solved(second)
    names = list(dict.fromkeys(score.problem for score in first.scores))
    if set(names) != {score.problem for score in second.scores}:
        raise ConfigError(f"{first.name} and {second.name}: not the same problems")
    gained = [name for name in names if name in after - before]
    lost = [name for name in names if name in before - after]
    return Pair(f"{second.name} against {first.name}", values, differences, gained, lost)


def solved(report: Report) -> set[str]:
    """The problems with at least one correct sample."""
    return {score.problem for score in report.scores if score.num_correct}


def store(pair: Pair, first: Report, second: Report) -> Pair:
    """Write the pair beside second's results, with a word where the two were not sampled alike (runs have own options).

    Both reports must have been written.
    """
    assert first.path is not None and second.path is not None
    refuse_unlike([first, second])
    laws = [read(path)["law"] for path in (first.path, second.path)]
    names = [name for name in laws[0] if laws[0][name] != laws[1].get(name)]
    unlike = [f"{name} {laws[0][name]} and {laws[1].get(name)}" for name in names]
    notes = (f"not sampled alike: {', '.join(unlike)}",) if unlike else ()
    result: dict[str, Any] = {"schema": 2, "name": pair.name}
    result |= {"first": {"name": first.name, "result": str(first.path)}}
    result |= {"second": {"name": second.name, "result": str(second.path)}}
    result["metrics"] = {
        name: {
            "first": pair.values[name][0],
            "second": pair.values[name][1],
            "difference": found.mean,
            "low": found.low,
            "high": found.high,
            "distinguishable": found.distinguishable,
        }
        for name, found in pair.differences.items()
    }
    result |= {"gained": pair.gained, "lost": pair.lost, "notes": list(notes)}
    folder = second.path.parent
    name = free_name(folder.parent, f"paired-{folder.name}-{slug(first.name.partition(' on ')[0])}", str(first.path))
    with storage_errors(folder.parent / name, ADVICE):
        return replace(pair, path=RunFolder(folder.parent).write_json(name, add_seal(result)), notes=notes)


def refuse_unlike(reports: Sequence[Report]) -> None:
    """Raise ConfigError where results are of other rows, or were graded by other code: a difference would be of those.

    What a result of an earlier version does not say is not compared.
    """
    results = [read(report.path) for report in reports if report.path is not None]
    rows = [each["rows"] for each in results if "rows" in each]
    code = [", ".join(sorted(each["grader"]["code"].values())) for each in results if "code" in each.get("grader", {})]
    for name, values in (("rows", rows), ("verifier", code)):
        other = next((each for each in values if each != values[0]), None)
        if other is not None:
            raise ConfigError(
                f"{reports[0].name} and the others are not of one {name}: sha256 {fingerprint.short(values[0])} and "
                f"{fingerprint.short(other)}: evaluate all of them with the same --dataset and --verifier"
            )


def free_name(folder: Path, stem: str, first: str) -> str:
    """`STEM.json`, or with a number where that compares with another model of the same name."""
    number, name = 1, f"{stem}.json"
    while (folder / name).exists() and read_object(folder / name, DamageError).get("first", {}).get("result") != first:
        number += 1
        name = f"{stem}-{number}.json"
    return name


def over_seeds(reports: Sequence[Report]) -> Report:
    """Reports of one method's runs as one: each run is a seed, so that intervals are for other seeds too.

    Raises ConfigError when they are not of the same problems, or were each sampled with several seeds.
    """
    names = [[score.problem for score in report.scores] for report in reports]
    refuse_unlike(reports)
    if any(each != names[0] for each in names):
        raise ConfigError("--over_seeds: the models were not evaluated on the same problems")
    if any(len({score.round for score in report.scores}) > 1 for report in reports):
        raise ConfigError("--over_seeds: each model is a seed: leave out --num_seeds")
    scores = [replace(score, round=number) for number, report in enumerate(reports) for score in report.scores]
    what = reports[0].name.partition(" on ")[2]
    return Report(f"{len(reports)} models as seeds on {what}", scores, reports[0].k)


def _mean(table: Sequence[Sequence[float]]) -> float:
    return sum(map(sum, table)) / (len(table) * len(table[0]))
