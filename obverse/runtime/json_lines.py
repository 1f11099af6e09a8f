"""JSON Lines: one JSON value a line, and a line ends at a line feed and nowhere else. No torch here.

`str.splitlines` also cuts at U+0085, U+2028, U+2029 and five more characters, all of which may stand in a JSON string
as they are. Every reader of JSON Lines in this package takes its lines from here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from obverse.errors import DataError, UserError

MAX_SHOWN = 80  # characters of a reason


def parse(text: str | bytes, where: str, error: type[UserError] = DataError) -> Any:
    """The JSON value of a text. `error`, with `where` and the reason, for anything else.

    NaN, Infinity and numbers beyond every float have no place in JSON; null stands for them, as a missing value.
    """
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"), parse_constant=lambda _: None)
    except UnicodeDecodeError:
        raise error(f"{where}: not a text in UTF-8") from None
    except json.JSONDecodeError as reason:
        raise error(f"{where}: not JSON: {reason.msg} at line {reason.lineno}, column {reason.colno}") from None
    except RecursionError:
        raise error(f"{where}: nested too deeply") from None
    except ValueError as reason:  # a whole number of thousands of digits
        raise error(f"{where}: {str(reason)[:MAX_SHOWN]}") from None


def read_bytes(path: Path, error: type[UserError] = DataError) -> bytes:
    """What a file holds. `error` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror}") from None


def read_object(path: Path, error: type[UserError] = DataError) -> dict[str, Any]:
    """The object in a file of JSON. `error`, which names the file, where there is none."""
    value = parse(read_bytes(path, error), str(path), error)
    if not isinstance(value, dict):
        raise error(f"{path}: expects an object")
    return value


def read_objects(path: Path, error: type[UserError] = DataError, ends_early: bool = False) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON Lines; empty lines are passed over.

    `error` names the file and the line where one is no object. With `ends_early` a last line without a line feed, which
    a killed writer leaves, is left out if it is no JSON.
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
