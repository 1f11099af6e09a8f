"""Problems from files, folders and the hub; all bad rows are reported together.

Every unusable row gives a line `file:line: field: reason` of a DataError; rows are never skipped. Lines count from 1;
in .json files and tables, `line` is the number of the row.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NoReturn

from obverse.data.dataset_folders import split_files
from obverse.data.file_formats import TABLE_BATCH, Rows, kind_of, listed, read_file, table_rows
from obverse.data.layouts import Flaw, RowLocation, read_row
from obverse.errors import ConfigError, DataError
from obverse.types import Problem

MAX_REPORTED = 50


@dataclass(frozen=True)
class Counts:
    """Counts of a data set, for printing."""

    num_rows: int
    num_with_answer: int
    num_with_demonstration: int
    num_by_verifier: dict[str, int]  # "none" for rows without a verifier
    longest_prompt: int  # characters


def count(problems: Sequence[Problem]) -> Counts:
    """Return the counts that `obverse data check` prints."""
    verifiers = Counter(problem.verifier or "none" for problem in problems)
    return Counts(
        num_rows=len(problems),
        num_with_answer=sum(problem.answer is not None for problem in problems),
        num_with_demonstration=sum(bool(problem.demonstration) for problem in problems),
        num_by_verifier=dict(verifiers.most_common()),
        longest_prompt=max((_num_chars(problem) for problem in problems), default=0),
    )


def read_path(path: str, split: str, num_problems: int | None = None, verifier: str | None = None) -> list[Problem]:
    """Return the problems of a file, or of the files of a folder that belong to a split, in order.

    A file is a single split, and `split` is ignored. With `num_problems`, only that many rows are read and checked.

    Errors: DataError if the file does not exist or cannot be read, or with the report of all bad rows.
    """
    try:
        target = Path(path).expanduser()
        if target.is_dir():
            files = split_files(target, _common_name(split))
        elif target.is_file():
            if kind_of(target) is None:
                raise DataError(f"{path}: {target.suffix or 'no suffix'} is not a kind of data; there are {listed()}")
            files = [target]
        else:
            _no_such_file(target)
        return read_rows(chain.from_iterable(map(read_file, files)), path, num_problems, verifier)
    except RuntimeError as error:  # `~name` of an unknown user
        raise DataError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read ({error.strerror}); check the file") from error


def read_hub(name: str, split: str, num_problems: int | None = None, verifier: str | None = None) -> list[Problem]:
    """Return the problems of a hub data set `owner/name`, or `owner/name:config`, loaded by the library `datasets`.

    Errors: DataError if it cannot be loaded, or with the report of all bad rows.
    """
    return read_rows(hub_rows(name, _common_name(split)), name, num_problems, verifier)


def read_rows(rows: Rows, source: str, num_problems: int | None = None, verifier: str | None = None) -> list[Problem]:
    """Return the problems of rows, with unique ids. Errors: DataError with the report of all bad rows."""
    if num_problems is not None and num_problems < 1:
        raise ConfigError(f"num_problems is {num_problems}; ask for 1 or more")
    problems: list[Problem] = []
    flaws: list[Flaw] = []
    locations: dict[str, RowLocation] = {}
    num_rows = 0
    for location, row in islice(rows, num_problems):
        num_rows += 1
        row_result = [row] if isinstance(row, Flaw) else read_row(row, location, verifier)
        if isinstance(row_result, list):
            flaws += row_result
        elif first_location := locations.get(row_result.id):
            flaws.append(
                Flaw(location, "id", f"{row_result.id[:80]!a} is taken by {first_location.file}:{first_location.line}")
            )
        else:
            locations[row_result.id] = location
            problems.append(row_result)
    if flaws:
        raise DataError(report(flaws, num_rows))
    if not problems:
        raise DataError(f"{source}: no rows")
    return problems


def report(flaws: Sequence[Flaw], num_rows: int) -> str:
    """Return the first flaws, one per line, and the number of further ones."""
    lines = [str(flaw) for flaw in flaws[:MAX_REPORTED]]
    if len(flaws) > MAX_REPORTED:
        lines.append(f"... and {len(flaws) - MAX_REPORTED} more of {num_rows} rows")
    return "\n".join(lines)


def hub_rows(name: str, split: str) -> Rows:
    """Yield the rows of a split of a hub data set with their locations. Errors: DataError if it cannot be loaded."""
    try:
        import datasets  # seconds that only the hub should cost
    except ImportError as error:
        raise DataError(f"hub data set {name!r}: install the library datasets, pip install 'obverse[data]'") from error
    dataset, _, config = name.partition(":")
    try:
        rows = datasets.load_dataset(dataset, config or None, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"hub data set {name!r}, split {split!r}: {_first_line(error)}; "
            "check the name (owner/name or owner/name:config) and the network, or give a file"
        ) from error
    batches = rows.with_format("arrow").iter(batch_size=TABLE_BATCH)
    yield from table_rows(dataset.rpartition("/")[2], batches, rows.features.arrow_schema, rows.num_rows)


def _common_name(split: str) -> str:
    return "test" if split == "heldout" else split


def _no_such_file(path: Path) -> NoReturn:
    if not path.parent.is_dir():
        raise DataError(f"there is no file {str(path)!r}, nor a folder {str(path.parent)!r}; check the path")
    if path.is_symlink():
        raise DataError(f"{str(path)!r} is a link to {str(path.readlink())!r}, where there is no file; check the link")
    names = sorted(entry.name for entry in path.parent.iterdir())
    matches = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    suggestion = path.parent / matches[0] if matches else None
    raise DataError(
        f"there is no file {str(path)!r}; " + (f"did you mean {str(suggestion)!r}?" if suggestion else "check the path")
    )


def _num_chars(problem: Problem) -> int:
    prompt = problem.prompt
    return len(prompt) if isinstance(prompt, str) else sum(len(message["content"]) for message in prompt)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
