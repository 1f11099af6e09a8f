"""Rows of one file: JSON Lines, JSON, CSV, Parquet and Arrow, plain or packed, each with the place where it stands.

Tables are read as a person reads them: a 32-bit 0.1 is 0.1, a date and a decimal number are texts, NaN and an empty
cell are missing values.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import math
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import IO, Any, NoReturn

from obverse.data.layouts import PACKINGS, Flaw, Place
from obverse.data.messages import kind
from obverse.errors import DataError

MAX_LINE_BYTES = 16 * 2**20
TABLE_BATCH = 1_000  # rows decoded at a time

_BOM = b"\xef\xbb\xbf"

Rows = Iterator[tuple[Place, object]]  # the object is the row as JSON has it, or the Flaw that kept it from being read
Convert = Callable[[Any], Any]


def kind_of(path: str | Path) -> str | None:
    """Which key of READERS reads a file, by the end of its name; None for a kind that is not read."""
    name = Path(path).name.lower()
    packing = next((item for item in PACKINGS if name.endswith(item)), "")
    suffix = Path(name.removesuffix(packing)).suffix
    return suffix if suffix in READERS and (not packing or suffix in PACKED) else None


def read_file(path: str | Path) -> Rows:
    """The rows of a file of a kind that `kind_of` knows. Errors: DataError for one that cannot be read as a whole."""
    return READERS[kind_of(path) or ""](str(path))


def listed() -> str:
    """The kinds of files, for messages."""
    return f"{', '.join(READERS)} (all but tables also with {', '.join(PACKINGS)})"


@contextmanager
def _opened(file: str) -> Iterator[IO[bytes]]:
    """The unpacked bytes of a file. Errors: DataError where its packing is damaged."""
    packing = next((item for item in PACKINGS if file.lower().endswith(item)), "")
    stream: Any
    try:
        if packing == ".gz":
            stream = gzip.open(file)  # noqa: SIM115 (closed below)
        elif packing == ".bz2":
            stream = bz2.open(file)  # noqa: SIM115
        elif packing:
            import pyarrow as pa  # a third of a second that only tables and zstd should cost

            stream = BufferedReader(pa.CompressedInputStream(open(file, "rb"), "zstd"))  # noqa: SIM115
        else:
            stream = open(file, "rb")  # noqa: SIM115
        with stream:
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file}: cannot be unpacked ({_first_line(error)}); it is damaged or cut off") from error
    except OSError as error:
        if not packing or error.errno is not None:
            raise
        raise DataError(f"{file}: cannot be unpacked ({_first_line(error)}); it is damaged or cut off") from error


# One kind of file each


def _jsonl(file: str) -> Rows:
    with _opened(file) as stream:
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
    with _opened(file) as stream:
        rows = _decoded(stream.read().removeprefix(_BOM), Place(file, 1))
    if isinstance(rows, Flaw):
        hint = "; one object a line is .jsonl" if rows.reason.startswith("Extra data") else ""
        raise DataError(f"{rows}{hint}")
    if not isinstance(rows, list):
        raise DataError(f"{file}: expected a list of objects, found {kind(rows)}")
    for number, row in enumerate(rows, start=1):
        yield Place(file, number), row


def _csv(file: str) -> Rows:
    """Rows by the header's names; every value is a text, and an empty cell is absent."""
    csv.field_size_limit(MAX_LINE_BYTES)
    with _opened(file) as stream:
        text = TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        rows = csv.reader(text, strict=True, delimiter="\t" if kind_of(file) == ".tsv" else ",")
        names: list[str] = []
        start = 1
        try:
            for cells in rows:
                place, start = Place(file, start), rows.line_num + 1
                if not any(cells) and len(cells) <= 1:
                    continue
                if not names:
                    names = [cell.strip() or f"column {number}" for number, cell in enumerate(cells, 1)]
                    _refuse_twice(file, names)
                elif len(cells) != len(names):
                    yield place, Flaw(place, "row", f"has {len(cells)} cells, the header has {len(names)}")
                else:
                    yield place, {name: cell for name, cell in zip(names, cells, strict=True) if cell}
        except csv.Error as error:
            yield Place(file, start), Flaw(Place(file, start), "csv", str(error))
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8, near line {start} ({error.reason})") from error


def _parquet(file: str) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            yield from table_rows(file, table.iter_batches(batch_size=TABLE_BATCH), table.schema_arrow)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a readable parquet file ({_first_line(error)})") from error


def _arrow(file: str) -> Rows:
    """Arrow's file or stream format; `save_to_disk` of the library datasets writes the latter."""
    import pyarrow as pa

    try:
        with open(file, "rb") as stream:
            is_file = stream.read(6) == b"ARROW1"
            stream.seek(0)
            if is_file:
                reader = pa.ipc.open_file(stream)
                batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
                yield from table_rows(file, batches, reader.schema)
            else:
                flow = pa.ipc.open_stream(stream)
                yield from table_rows(file, iter(flow), flow.schema)
    except (pa.ArrowException, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{file}: not a readable arrow file ({_first_line(error)})") from error


READERS: dict[str, Callable[[str], Rows]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
PACKED = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv"})  # tables are packed inside


# Tables


def table_rows(source: str, batches: Iterator[Any], schema: Any) -> Rows:
    """The rows of Arrow batches, numbered from 1."""
    _refuse_twice(source, schema.names)
    converts = {field.name: convert for field in schema if (convert := _converter(field.type))}
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            for name, convert in converts.items():
                row[name] = convert(row[name])
            yield Place(source, number), row


def _converter(column: Any) -> Convert | None:
    """What makes plain JSON values of a column's Python values; None where they are plain."""
    import pyarrow as pa

    types = pa.types
    if types.is_float16(column) or types.is_float32(column):
        code = "e" if types.is_float16(column) else "f"
        return lambda value: None if value is None else _shortest(value, code)
    if types.is_float64(column):
        return lambda value: None if value is None or math.isnan(value) else value
    if types.is_decimal(column):
        return lambda value: None if value is None else f"{value:f}"
    if types.is_temporal(column):
        return lambda value: None if value is None else str(value)
    if types.is_dictionary(column):
        return _converter(column.value_type)
    if types.is_map(column):
        key, part = _converter(column.key_type) or _same, _converter(column.item_type) or _same
        return lambda value: None if value is None else {key(name): part(item) for name, item in value}
    if types.is_list(column) or types.is_large_list(column) or types.is_fixed_size_list(column):
        inner = _converter(column.value_type)
        return inner and (lambda value: None if value is None else list(map(inner, value)))
    if types.is_struct(column):
        parts = {field.name: convert for field in column if (convert := _converter(field.type))}
        return (lambda value: _converted(value, parts)) if parts else None
    return None


def _same(value: Any) -> Any:
    return value


def _converted(value: Mapping[str, Any] | None, parts: Mapping[str, Convert]) -> dict[str, Any] | None:
    if value is None:
        return None
    return {name: parts[name](item) if name in parts else item for name, item in value.items()}


def _shortest(value: float, code: str) -> float | None:
    """The number with the fewest digits that a narrow float stands for; NaN is a missing value."""
    if math.isnan(value):
        return None
    if math.isinf(value) or value.is_integer():
        return value
    texts = (f"{value:.{precision}g}" for precision in range(1, 10))
    return next(
        (float(text) for text in texts if struct.unpack(code, struct.pack(code, float(text)))[0] == value), value
    )


def _refuse_twice(file: str, names: list[str]) -> None:
    if twice := [name for name, number in Counter(names).items() if number > 1]:
        raise DataError(f"{file}: more than one column is called {twice[0]!r}")


# JSON


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


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
