"""Rows of a file with their locations: JSON Lines, JSON, CSV, Parquet and Arrow, plain or compressed.

Values of tables are converted to JSON values: a 32-bit 0.1 becomes 0.1, dates and decimals become texts, NaN and empty
cells are missing values.
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

from obverse.data.layouts import PACKINGS, Flaw, RowLocation
from obverse.data.messages import kind
from obverse.errors import DataError
from obverse.runtime.progress import ReportedFile, report_progress

MAX_LINE_BYTES = 16 * 2**20
TABLE_BATCH = 1_000  # rows decoded at a time
READ_BYTES = 2**17  # read at a time

_BOM = b"\xef\xbb\xbf"

Rows = Iterator[tuple[RowLocation, object]]  # the object is the row as a JSON value, or a Flaw
Convert = Callable[[Any], Any]


def kind_of(path: str | Path) -> str | None:
    """Return the key of READERS for a file by its suffix; None for an unsupported kind."""
    name = Path(path).name.lower()
    packing = next((item for item in PACKINGS if name.endswith(item)), "")
    suffix = Path(name.removesuffix(packing)).suffix
    return suffix if suffix in READERS and (not packing or suffix in PACKED) else None


def read_file(path: str | Path) -> Rows:
    """Yield the rows of a file of a supported kind. Errors: DataError if the file as a whole cannot be read."""
    return READERS[kind_of(path) or ""](str(path))


def listed() -> str:
    """Return the supported kinds of files, for messages."""
    return f"{', '.join(READERS)} (all but tables also with {', '.join(PACKINGS)})"


def _reported(file: str) -> BufferedReader:
    """Open a file, with reports on how much of it was read."""
    return BufferedReader(ReportedFile(file), READ_BYTES)


@contextmanager
def _open_unpacked(file: str) -> Iterator[IO[bytes]]:
    """Open a file for reading its uncompressed bytes. Errors: DataError if the compressed data is damaged."""
    packing = next((item for item in PACKINGS if file.lower().endswith(item)), "")
    stream: Any
    try:
        with _reported(file) as packed:
            if packing == ".gz":
                stream = gzip.open(packed)  # noqa: SIM115 (closed below)
            elif packing == ".bz2":
                stream = bz2.open(packed)  # noqa: SIM115
            elif packing:
                import pyarrow as pa  # a third of a second that only tables and zstd should cost

                stream = BufferedReader(pa.CompressedInputStream(packed, "zstd"))
            else:
                stream = packed
            with stream:
                yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file}: cannot be unpacked ({_first_line(error)}); it is damaged or cut off") from error
    except OSError as error:
        if not packing or error.errno is not None:
            raise
        raise DataError(f"{file}: cannot be unpacked ({_first_line(error)}); it is damaged or cut off") from error


# Readers of the kinds of files


def _jsonl(file: str) -> Rows:
    with _open_unpacked(file) as stream:
        line_number = 0
        while line := stream.readline(MAX_LINE_BYTES + 1):
            line_number += 1
            location = RowLocation(file, line_number)
            if len(line) > MAX_LINE_BYTES:
                while line and not line.endswith(b"\n"):
                    line = stream.readline(MAX_LINE_BYTES)
                yield location, Flaw(location, "json", f"longer than {MAX_LINE_BYTES // 2**20} MB")
                continue
            line = (line.removeprefix(_BOM) if line_number == 1 else line).rstrip()
            if line:
                yield location, _decode(line, location)


def _json(file: str) -> Rows:
    with _open_unpacked(file) as stream:
        rows = _decode(stream.read().removeprefix(_BOM), RowLocation(file, 1))
    if isinstance(rows, Flaw):
        hint = "; one object a line is .jsonl" if rows.reason.startswith("Extra data") else ""
        raise DataError(f"{rows}{hint}")
    if not isinstance(rows, list):
        raise DataError(f"{file}: expected a list of objects, found {kind(rows)}")
    for number, row in enumerate(rows, start=1):
        yield RowLocation(file, number), row


def _csv(file: str) -> Rows:
    """Yield rows by the header's names; values are texts, and empty cells are missing."""
    csv.field_size_limit(MAX_LINE_BYTES)
    with _open_unpacked(file) as stream:
        text = TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        rows = csv.reader(text, strict=True, delimiter="\t" if kind_of(file) == ".tsv" else ",")
        names: list[str] = []
        line_number = 1
        try:
            for cells in rows:
                location, line_number = RowLocation(file, line_number), rows.line_num + 1
                if not any(cells) and len(cells) <= 1:
                    continue
                if not names:
                    names = [cell.strip() or f"column {number}" for number, cell in enumerate(cells, 1)]
                    _check_unique(file, names)
                elif len(cells) != len(names):
                    yield location, Flaw(location, "row", f"has {len(cells)} cells, the header has {len(names)}")
                else:
                    yield location, {name: cell for name, cell in zip(names, cells, strict=True) if cell}
        except csv.Error as error:
            yield RowLocation(file, line_number), Flaw(RowLocation(file, line_number), "csv", str(error))
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8, near line {line_number} ({error.reason})") from error


def _parquet(file: str) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            batches = table.iter_batches(batch_size=TABLE_BATCH)
            yield from table_rows(file, batches, table.schema_arrow, table.metadata.num_rows)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a readable parquet file ({_first_line(error)})") from error


def _arrow(file: str) -> Rows:
    """Yield rows of Arrow's file or stream format; `save_to_disk` of the datasets library writes the latter."""
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
PACKED = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv"})  # tables have internal compression


# Tables


def table_rows(source: str, batches: Iterator[Any], schema: Any, num_rows: int = 0) -> Rows:
    """Yield the rows of Arrow batches, numbered from 1; `num_rows` of them are expected, 0 if it is not known."""
    _check_unique(source, schema.names)
    converts = {field.name: convert for field in schema if (convert := _converter(field.type))}
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            for name, convert in converts.items():
                row[name] = convert(row[name])
            yield RowLocation(source, number), row
        report_progress("read", number, num_rows)


def _converter(column: Any) -> Convert | None:
    """Return the conversion of a column's values to JSON values; None if none is needed."""
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
    """Return the shortest decimal that rounds to a float16 or float32; None for NaN."""
    if math.isnan(value):
        return None
    if math.isinf(value) or value.is_integer():
        return value
    texts = (f"{value:.{precision}g}" for precision in range(1, 10))
    return next(
        (float(text) for text in texts if struct.unpack(code, struct.pack(code, float(text)))[0] == value), value
    )


def _check_unique(file: str, names: list[str]) -> None:
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{file}: more than one column is called {repeated[0]!r}")


# JSON


def _decode(text: bytes, location: RowLocation) -> object:
    """Return the JSON value of a text, or a Flaw; in a text of several lines the flaw has the line of the error."""
    try:
        return _DECODER.decode(text.decode())
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 at byte {error.start + 1}"
    except json.JSONDecodeError as error:
        location = RowLocation(location.file, location.line + error.lineno - 1)
        reason = f"{error.msg} at column {error.colno}"
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:  # raised by the two functions below, and for integers with thousands of digits
        reason = _first_line(error)
    return Flaw(location, "json", reason)


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
