"""Rows in memory as JSON Lines: a list of dicts, a `datasets.Dataset`, a DataFrame or another iterable of dicts.

The text is what a run stores, so that the run can be resumed from its folder; `obverse.data` reads and checks it like
any other file of rows (docs/data.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

from obverse.data.file_formats import TABLE_BATCH, table_rows
from obverse.data.layouts import MAX_DEPTH, Flaw, RowLocation
from obverse.data.readers import report
from obverse.errors import ConfigError, DataError

Rows = Iterable[Mapping[str, Any]]

FORMS = "a name, a path, a list of dicts, a datasets.Dataset or a pandas DataFrame"


class UnusableError(ValueError):
    """A value that JSON cannot hold; the message is the reason."""


def is_name(dataset: object) -> bool:
    """Whether a data set is given by its name or path, and not by its rows."""
    return isinstance(dataset, str | Path)


def json_lines(dataset: Any, option: str, num_rows: int | None = None) -> str:
    """Return the rows as one JSON object per line; equal rows give equal texts.

    Args:
        dataset: An iterable of mappings. NumPy and torch values become numbers and lists, dates and decimals texts, as
            in a table's file. A `datasets.IterableDataset` needs `num_rows`.
        option: The name of the argument, for messages: `dataset` or `eval_dataset`.
        num_rows: Read only this many rows of an iterable that has no length.

    Raises ConfigError for another type, DataError for no rows, and DataError that names every row with a value that
    JSON does not have, as `dataset[3]: level: ...`.
    """
    lines, flaws = [], []
    for index, row in enumerate(_rows(dataset, option, num_rows)):
        try:
            lines.append(_line(row))
        except UnusableError as error:
            field, _, reason = str(error).rpartition(": ")
            flaws.append(Flaw(RowLocation(option, index + 1), field or "row", reason))
    if flaws:
        raise DataError(by_index(report(flaws, len(lines) + len(flaws)), option, option))
    if not lines:
        raise DataError(f"{option} has no rows: give at least one")
    return "".join(lines)


def by_index(text: str, source: str, option: str) -> str:
    """Return a message in which the lines of `source` are named as items of an argument, counted from 0.

    Example:
        >>> by_index("train.jsonl:4: prompt: missing", "train.jsonl", "dataset")
        'dataset[3]: prompt: missing'
    """
    items = re.sub(rf"{re.escape(source)}:(\d+)", lambda match: f"{option}[{int(match[1]) - 1}]", text)
    return items.replace(source, option)


def _rows(dataset: Any, option: str, num_rows: int | None) -> Iterator[Any]:
    """The rows of a data set; ConfigError for a type that has no rows."""
    names = {cls.__name__ for cls in type(dataset).__mro__}
    is_of_datasets = any(cls.__module__.partition(".")[0] == "datasets" for cls in type(dataset).__mro__)
    if is_of_datasets and {"DatasetDict", "IterableDatasetDict"} & names:
        splits = ", ".join(map(repr, dataset))
        raise ConfigError(f"{option} is a DatasetDict with the splits {splits}: give one of them, dataset['train']")
    if is_of_datasets and "IterableDataset" in names and num_rows is None:
        raise ConfigError(
            f"{option} is an IterableDataset of unknown length: give num_problems, or list(dataset.take(1000))"
        )
    if is_of_datasets and "IterableDataset" in names:  # torch's Dataset may be among its base classes
        return islice(dataset, num_rows)
    if is_of_datasets and "Dataset" in names:
        if dataset.format["type"] == "custom":  # the rows are what the function of set_transform returns
            return iter(dataset)
        dataset = dataset.select_columns(dataset.format["columns"])
        batches = dataset.with_format("arrow").iter(batch_size=TABLE_BATCH)
        return (row for _, row in table_rows(option, batches, dataset.features.arrow_schema))
    if "DataFrame" in names and hasattr(dataset, "to_dicts"):  # of polars
        return iter(dataset.to_dicts())
    if "DataFrame" in names and hasattr(dataset, "to_dict"):
        if not dataset.columns.is_unique:
            repeated = _listed(dict.fromkeys(dataset.columns[dataset.columns.duplicated()]))
            raise ConfigError(f"{option} has several columns called {repeated}: rename or drop them")
        return ({name: _none_for_nan(value) for name, value in row.items()} for row in dataset.to_dict("records"))
    if isinstance(dataset, Mapping):
        raise ConfigError(f"{option} is a dict with the keys {_listed(dataset)}: give a list of rows, a dict each")
    if isinstance(dataset, bytes) or not (hasattr(dataset, "__iter__") or hasattr(dataset, "__getitem__")):
        raise ConfigError(f"{option}: expects {FORMS}, not a {type(dataset).__name__}")
    if not hasattr(dataset, "__iter__") and hasattr(dataset, "__len__"):  # such as a torch Dataset
        return (dataset[index] for index in range(len(dataset)))
    return iter(dataset) if hasattr(dataset, "__len__") else islice(dataset, num_rows)


def _line(row: Any) -> str:
    if not isinstance(row, Mapping):
        raise UnusableError(f"expects a dict of columns, not a {type(row).__name__}")
    text = json.dumps(_plain(row, 0), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which the reader of the file reports
        text = json.dumps(_plain(row, 0))
    return text + "\n"


def _plain(value: Any, depth: int) -> Any:
    """A value as JSON has it. Raises UnusableError, with the keys that lead to the value."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not isfinite(value):
            raise UnusableError(f"{float(value)} is no number in JSON, give None or leave the key out")
        return float(value)
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, date | datetime | time | timedelta):
        return str(value)
    if depth > MAX_DEPTH:
        raise UnusableError(f"nested more than {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        return {_key(key): _at(_key(key), item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # of NumPy, torch or JAX
        return _from_array(value, depth)
    raise UnusableError(f"a {type(value).__name__} is no value in JSON, convert it to a text or a number")


def _from_array(value: Any, depth: int) -> Any:
    """An array, tensor or scalar as lists and numbers; a 32-bit 0.1 is 0.1, as in a table's file."""
    if getattr(value, "ndim", 0) > 0:
        return [_plain(item, depth + 1) for item in value]
    kind = str(value.dtype).rpartition(".")[2]
    if kind in ("float16", "float32", "bfloat16"):
        return _plain(float(f"{float(value):.7g}"), depth + 1)
    return str(value) if kind.startswith("datetime64") else _plain(value.tolist(), depth + 1)


def _at(key: str, value: Any, depth: int) -> Any:
    try:
        return _plain(value, depth)
    except UnusableError as error:
        path, _, reason = str(error).rpartition(": ")
        raise UnusableError(f"{key}{'.' if path else ''}{path}: {reason}") from None


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise UnusableError(f"the key {key!r:.40} is a {type(key).__name__}, and keys of JSON are texts")
    return str.__str__(key)


def _none_for_nan(value: Any) -> Any:
    """The value; None for NaN and other markers of missing values in a DataFrame."""
    is_nan = isinstance(value, float | datetime) and value != value
    return None if is_nan or type(value).__name__ == "NAType" else value


def _listed(values: Iterable[Any]) -> str:
    names = [repr(value) for value in islice(values, 6)]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
