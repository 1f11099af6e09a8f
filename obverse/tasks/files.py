"""Problems from files (.jsonl, .json, .parquet), folders of them and the hub; all bad rows are reported in one pass.

A row that cannot be used is a line `file:line: field: reason` of the DataError that ends the reading; none is skipped.
Lines count from 1; in .json files and parquet it is the number of the row.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn

from obverse.errors import ConfigError, DataError
from obverse.records import Problem
from obverse.tasks.messages import kind
from obverse.tasks.rows import Flaw, Place, read_row

MAX_LINE_BYTES = 16 * 2**20
MAX_REPORTED = 50
PARQUET_BATCH = 1_000  # rows decoded at a time
SPLITS = ("train", "test")  # of folders and the hub, where heldout means test

_BOM = b"\xef\xbb\xbf"
_WORD = re.compile("[A-Za-z]+")

Rows = Iterator[tuple[Place, object]]  # the object is the row as JSON has it, or the Flaw that kept it from being read


@dataclass(frozen=True)
class Counts:
    """What a data set holds, for printing."""

    num_rows: int
    num_with_answer: int
    num_with_demonstration: int
    num_by_verifier: dict[str, int]  # "none" for rows that nothing checks
    longest_prompt: int  # characters


def count(problems: Sequence[Problem]) -> Counts:
    """Return what `obverse data check` prints of problems that could be read."""
    verifiers = Counter(problem.verifier or "none" for problem in problems)
    return Counts(
        num_rows=len(problems),
        num_with_answer=sum(problem.answer is not None for problem in problems),
        num_with_demonstration=sum(bool(problem.demonstration) for problem in problems),
        num_by_verifier=dict(verifiers.most_common()),
        longest_prompt=max((_num_chars(problem) for problem in problems), default=0),
    )


def read_path(path: str, split: str, num_problems: int | None = None, verifier: str | None = None) -> list[Problem]:
    """Return the problems of a file, or of the files of a folder that belong to a split, in their order.

    A file is one split, whatever is asked for. With `num_problems` only so many rows are read, and checked.

    Errors: DataError if there is no such file, if it cannot be read, or with the report of all bad rows.
    """
    target = Path(path).expanduser()
    if target.is_dir():
        files = _split_files(target, _common_name(split))
    elif target.is_file():
        if target.suffix not in READERS:
            raise DataError(
                f"{path}: {target.suffix or 'no suffix'} is not a kind of data; there are {', '.join(READERS)}"
            )
        files = [target]
    else:
        _no_such_file(target)
    rows = chain.from_iterable(READERS[file.suffix](str(file)) for file in files)
    try:
        return read_rows(rows, path, num_problems, verifier)
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read ({error.strerror}); check the file") from error


def read_hub(name: str, split: str, num_problems: int | None = None, verifier: str | None = None) -> list[Problem]:
    """Return the problems of a hub data set `owner/name`, or `owner/name:config`, by the library `datasets`.

    Errors: DataError if it cannot be had, or with the report of all bad rows.
    """
    return read_rows(hub_rows(name, _common_name(split)), name, num_problems, verifier)


def read_rows(rows: Rows, source: str, num_problems: int | None = None, verifier: str | None = None) -> list[Problem]:
    """Return the problems that rows hold, with ids that differ. Errors: DataError with the report of all bad rows."""
    if num_problems is not None and num_problems < 1:
        raise ConfigError(f"num_problems is {num_problems}; ask for 1 or more")
    problems: list[Problem] = []
    flaws: list[Flaw] = []
    places: dict[str, Place] = {}
    num_rows = 0
    for place, row in islice(rows, num_problems):
        num_rows += 1
        found = [row] if isinstance(row, Flaw) else read_row(row, place, verifier)
        if isinstance(found, list):
            flaws += found
        elif first := places.get(found.id):
            flaws.append(Flaw(place, "id", f"{found.id[:80]!a} is taken by {first.file}:{first.line}"))
        else:
            places[found.id] = place
            problems.append(found)
    if flaws:
        raise DataError(report(flaws, num_rows))
    if not problems:
        raise DataError(f"{source}: no rows")
    return problems


def report(flaws: Sequence[Flaw], num_rows: int) -> str:
    """Return the first flaws, a line each, and how many more there are."""
    lines = [str(flaw) for flaw in flaws[:MAX_REPORTED]]
    if len(flaws) > MAX_REPORTED:
        lines.append(f"... and {len(flaws) - MAX_REPORTED} more of {num_rows} rows")
    return "\n".join(lines)


# One kind of file each


def _jsonl(file: str) -> Rows:
    with open(file, "rb") as stream:
        number = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            place = Place(file, number)
            if len(line) > MAX_LINE_BYTES:
                while line and not line.endswith(b"\n"):
                    line = stream.readline(MAX_LINE_BYTES)
                yield place, Flaw(place, "json", f"longer than {MAX_LINE_BYTES // 2**20} MB")
                continue
            line = (line.removeprefix(_BOM) if number == 1 else line).rstrip()
            if line:
                yield place, _decoded(line, place)


def _json(file: str) -> Rows:
    rows = _decoded(Path(file).read_bytes().removeprefix(_BOM), Place(file, 1))
    if isinstance(rows, Flaw):
        hint = "; one object a line is .jsonl" if rows.reason.startswith("Extra data") else ""
        raise DataError(f"{rows}{hint}")
    if not isinstance(rows, list):
        raise DataError(f"{file}: expected a list of objects, found {kind(rows)}")
    for number, row in enumerate(rows, start=1):
        yield Place(file, number), row


def _parquet(file: str) -> Rows:
    import pyarrow as pa  # a third of a second that only parquet files should cost
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            names = table.schema_arrow.names
            if twice := [name for name, number in Counter(names).items() if number > 1]:
                raise DataError(f"{file}: more than one column is called {twice[0]!r}")
            number = 0
            for batch in table.iter_batches(batch_size=PARQUET_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield Place(file, number), row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a readable parquet file ({_first_line(error)})") from error


def hub_rows(name: str, split: str) -> Rows:
    """The rows of a split of a hub data set, with their places. Errors: DataError if it cannot be had."""
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
    stem = dataset.rpartition("/")[2]
    for number, row in enumerate(rows, start=1):
        yield Place(stem, number), row


READERS = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}


def _decoded(text: bytes, place: Place) -> object:
    """The JSON value of a text, or the flaw that keeps it from being one; for many lines the flaw names its own."""
    try:
        return _DECODER.decode(text.decode())
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 at byte {error.start + 1}"
    except json.JSONDecodeError as error:
        place = Place(place.file, place.line + error.lineno - 1)
        reason = f"{error.msg} at column {error.colno}"
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:  # what the two functions below refuse, and whole numbers of thousands of digits
        reason = _first_line(error)
    return Flaw(place, "json", reason)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {key[:40]!a} is there twice")
    return row


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_object)


# Folders


def _split_files(folder: Path, split: str) -> list[Path]:
    """The data files of one split: those with the split's name as a word in their own, or all if none names a split."""
    if split not in SPLITS:
        raise ConfigError(f"{folder}: a folder has no split {split!r}; choose one of {', '.join(SPLITS)}")
    files = sorted(file for file in folder.iterdir() if file.suffix in READERS and not file.name.startswith("."))
    kinds = sorted({file.suffix for file in files})
    if not files:
        folders = sorted(file.name for file in folder.iterdir() if file.is_dir() and not file.name.startswith("."))[:5]
        inside = f"; there are folders in it: {', '.join(folders)}" if folders else ""
        raise DataError(f"{folder}: no {', '.join(READERS)} file in this folder{inside}")
    if len(kinds) > 1:
        raise DataError(
            f"{folder}: files of several kinds ({', '.join(kinds)}); name one file, or move the others away"
        )
    named = {file: {word.lower() for word in _WORD.findall(file.stem)} for file in files}
    if not any(words & {*SPLITS, "validation", "valid", "dev"} for words in named.values()) and split == "train":
        return files
    chosen = [file for file in files if split in named[file]]
    if not chosen:
        listed = ", ".join(file.name for file in files[:5])
        raise DataError(f"{folder}: no file has {split!r} in its name ({listed}); rename one or name a file")
    return chosen


def _common_name(split: str) -> str:
    return "test" if split == "heldout" else split


def _no_such_file(path: Path) -> NoReturn:
    if not path.parent.is_dir():
        raise DataError(f"there is no file {str(path)!r}, nor a folder {str(path.parent)!r}; check the path")
    names = sorted(entry.name for entry in path.parent.iterdir())
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    there = path.parent / near[0] if near else None
    raise DataError(
        f"there is no file {str(path)!r}; " + (f"did you mean {str(there)!r}?" if there else "check the path")
    )


def _num_chars(problem: Problem) -> int:
    prompt = problem.prompt
    return len(prompt) if isinstance(prompt, str) else sum(len(message["content"]) for message in prompt)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
