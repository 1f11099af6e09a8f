"""Seals: stored files that prove they are what was written. No torch here.

A sealed object has a last key `seal`, the sha256 of all the others; a sealed row of JSON Lines has the same. Both stay
plain JSON. Objects of earlier versions have no seal and no `schema` of 2 or more: they are read unproven.

A file of several parts that grows (`samples.jsonl.gz`) is a chain of sealed gzip members. Each begins with a header of
fixed size, whose comment has the number of bytes that follow, the sha256 of the member and of the seal before it, and a
checksum of the header. So a member that was changed, moved or taken out is told from one that a kill cut off at the
end of the file. Any reader of gzip reads the whole.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from obverse.errors import DamageError
from obverse.runtime.json_lines import read_object, read_objects

SEAL, SCHEMA = "seal", "schema"
SEALED_SINCE = 2  # the schema from which on an object must have a seal

_FIXED = b"\x1f\x8b\x08\x10\0\0\0\0\2\xff"  # gzip with a comment, without a time
_MAGIC = b"obverse "
_SEAL_AT, _CHECK_AT, _HEADER = 36, 101, 110  # offsets in the header, and its size
_OLDER = b"\x1f\x8b\x08\0"  # a member of schema 1: gzip's own checksum is all that it has
BLOCK = 2**20  # bytes read at a time
FIRST = "0" * 64  # stands for the seal before the first member


def seal_of(value: Mapping[str, Any]) -> str:
    """The sha256 of an object's JSON, whatever the order of its keys and its white space."""
    plain = json.loads(json.dumps(value), parse_constant=lambda _: None)  # as it is read
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def add_seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """The object with its seal."""
    return {**value, SEAL: seal_of(value)}


def verify_seal(value: dict[str, Any], where: str, required: bool = False) -> dict[str, Any]:
    """The object without its seal. DamageError where that is not the rest's, or missing though it `must` be."""
    schema = value.get(SCHEMA)
    required = required or not (schema is None or (type(schema) is int and schema < SEALED_SINCE))
    rest = {name: each for name, each in value.items() if name != SEAL}
    if SEAL not in value and not required:
        return rest
    if value.get(SEAL) != seal_of(rest):
        raise DamageError(f"{where} was changed or damaged (its seal is not that of its content): {REMEDY}")
    return rest


REMEDY = "put the file back as it was, or move its folder away and begin anew"


def read_sealed(path: Path, required: bool = False) -> dict[str, Any]:
    """A sealed object of a file. DamageError, which names the file, where it is not what was written."""
    return verify_seal(read_object(path, DamageError), str(path), required)


def read_sealed_rows(path: Path, required: bool = False) -> list[dict[str, Any]]:
    """The sealed rows of a file of JSON Lines that was written in one piece; rows without a seal unless one has one."""
    rows = list(read_objects(path, DamageError))
    required = required or any(SEAL in row for row in rows)
    return [verify_seal(row, f"{path}:{number}", required) for number, row in enumerate(rows, 1)]


@dataclass(frozen=True, slots=True)
class Member:
    """A whole member: where it ends in the file, its seal, and what it holds."""

    end: int
    seal: str
    data: bytes


def pack_member(data: bytes, before: str = FIRST) -> tuple[bytes, str]:
    """A sealed gzip member that follows the one with the seal `before`; its bytes and its seal."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = packer.compress(data) + packer.flush()
    body += zlib.crc32(data).to_bytes(4, "little") + (len(data) % 2**32).to_bytes(4, "little")
    seal = _seal(body, before)
    start = _FIXED + _MAGIC + b"%016x  " % len(body) + seal.encode() + b" "
    return start + b"%08x\0" % zlib.crc32(start) + body, seal


def _seal(body: bytes, before: str) -> str:
    return hashlib.sha256(before.encode() + body).hexdigest()


def read_members(path: Path) -> Iterator[Member]:
    """The whole members of a file, in their order; what a writer that was killed left at its end is passed over.

    DamageError, which names the file and the place, where what stands there was never written so.
    """
    size, end, before = path.stat().st_size, 0, FIRST
    with path.open("rb") as file:
        while end < size:
            file.seek(end)
            try:
                each = _next(file, end, size, before)
            except ValueError as reason:
                raise DamageError(
                    f"{path} is damaged at byte {end:,} of {size:,}: {reason}; nothing of it was changed: put the file "
                    "back as it was, or move its folder away and the samples are drawn again"
                ) from None
            if each is None:
                return
            end, before = each.end, each.seal
            yield each


def _next(file: BinaryIO, start: int, size: int, before: str) -> Member | None:
    """The member at `start`; None where the file ends before it does. ValueError says what is wrong with it."""
    header = file.read(_HEADER)
    if header[: len(_OLDER)] == _OLDER and before == FIRST:
        file.seek(start)
        return _older(file, start)
    known = (_FIXED + _MAGIC)[: len(header)]
    if header[: len(known)] != known:
        raise ValueError("no row was written that begins so")
    if len(header) < _HEADER:
        return None
    if header[_CHECK_AT:] != b"%08x\0" % zlib.crc32(header[:_CHECK_AT]):
        raise ValueError("the head of the rows that begin there was changed")
    length, seal = int(header[len(known) : len(known) + 16], 16), header[_SEAL_AT : _SEAL_AT + 64].decode()
    if start + _HEADER + length > size:
        return None
    body = file.read(length)
    if _seal(body, before) != seal:
        raise ValueError("the rows that begin there were changed, or rows before them are missing")
    data = zlib.decompress(body[:-8], wbits=-zlib.MAX_WBITS)
    return Member(start + _HEADER + length, seal, data)


def _older(file: BinaryIO, start: int) -> Member | None:
    """A member of schema 1."""
    reader, parts = zlib.decompressobj(31), []
    while not reader.eof:
        block = file.read(BLOCK)
        if not block:
            return None
        try:
            parts.append(reader.decompress(block))
        except zlib.error as reason:
            raise ValueError(f"not what gzip wrote ({reason})") from None
    return Member(file.tell() - len(reader.unused_data), FIRST, b"".join(parts))
