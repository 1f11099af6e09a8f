"""JSON and JSON Lines, one JSON value per line; only a line feed ends a line. Does not import torch.

`str.splitlines` also splits at U+0085, U+2028, U+2029 and five more characters, which JSON strings may contain
unescaped. All JSON Lines files of this package are read with these functions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from obverse.errors import DataError, UserError

MAX_REASON = 80  # characters


def parse(text: str | bytes, where: str, error: type[UserError] = DataError) -> Any:
    """The JSON value of a text. Raises `error`, with `where` and the reason, for invalid JSON.

    NaN and Infinity, which JSON does not have, are read as None.
    """
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"), parse_constant=lambda _: None)
    except UnicodeDecodeError:
        raise error(f"{where}: not a text in UTF-8") from None
    except json.JSONDecodeError as reason:
        raise error(f"{where}: not JSON: {reason.msg} at line {reason.lineno}, column {reason.colno}") from None
    except RecursionError:
        raise error(f"{where}: nested too deeply") from None
    except ValueError as reason:  # an integer with thousands of digits
        raise error(f"{where}: {str(reason)[:MAX_REASON]}") from None


def read_bytes(path: Path, error: type[UserError] = DataError) -> bytes:
    """The content of a file. Raises `error` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror}") from None


def read_object(path: Path, error: type[UserError] = DataError) -> dict[str, Any]:
    """The object in a JSON file. Raises `error`, which names the file, for anything else."""
    value = parse(read_bytes(path, error), str(path), error)
    if not isinstance(value, dict):
        raise error(f"{path}: expects an object")
    return value


def read_objects(path: Path, error: type[UserError] = DataError, ends_early: bool = False) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file; empty lines are skipped.

    Raises `error` with file and line for a line that is not an object. With `ends_early` an invalid last line without a
    line feed, which a killed writer leaves, is skipped.
    """
    content = read_bytes(path, error).split(b"\n")
    for number, line in enumerate(content, 1):
        if not line.strip():
            continue
        is_last = number == len(content)
        try:
            value = parse(line, f"{path}:{number}", error)
        except UserError:
            if is_last and ends_early:
                return
            raise
        if not isinstance(value, dict):
            raise error(f"{path}:{number}: expects an object")
        yield value
