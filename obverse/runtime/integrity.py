"""Checksums ("seals") inside stored files, which reveal changed content. Does not import torch.

A sealed JSON object has a last key `seal`, the sha256 of all other keys; a sealed row of JSON Lines as well. Objects of
earlier versions have no seal and no `schema` of 2 or more: they are read without verification.

A file that grows (`samples.jsonl.gz`) is a chain of sealed gzip members. Each begins with a header of fixed size, whose
comment has the number of bytes that follow, the sha256 of the member and of the previous seal, and a checksum of the
header. A member that was changed, moved or removed is thereby distinguished from an incomplete one at the end of the
file, which a killed writer leaves. Any gzip reader can read the file.
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
SEALED_SINCE = 2  # objects of this schema and later ones must have a seal

_FIXED = b"\x1f\x8b\x08\x10\0\0\0\0\2\xff"  # gzip with a comment, without a time
_MAGIC = b"obverse "
_SEAL_AT, _CHECK_AT, _HEADER = 36, 101, 110  # offsets in the header, and its size
_OLDER = b"\x1f\x8b\x08\0"  # a member of schema 1, with gzip's checksum only
BLOCK = 2**20  # bytes read at a time
FIRST = "0" * 64  # in place of a previous seal in the first member


def seal_of(value: Mapping[str, Any]) -> str:
    """The sha256 of an object's JSON, independent of the order of keys and of white space."""
    plain = json.loads(json.dumps(value), parse_constant=lambda _: None)  # as readers parse it
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def add_seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """The object with its seal."""
    return {**value, SEAL: seal_of(value)}


def verify_seal(value: dict[str, Any], where: str, required: bool = False) -> dict[str, Any]:
    """The object without its seal. Raises DamageError for a wrong seal, and for a missing one if it is `required`."""
    schema = value.get(SCHEMA)
    required = required or not (schema is None or (type(schema) is int and schema < SEALED_SINCE))
    content = {key: item for key, item in value.items() if key != SEAL}
    if SEAL not in value and not required:
        return content
    if value.get(SEAL) != seal_of(content):
        raise DamageError(f"{where} was changed or damaged (its seal is not that of its content): {REMEDY}")
    return content


REMEDY = "restore the file, or move its folder away and begin anew"


def read_sealed(path: Path, required: bool = False) -> dict[str, Any]:
    """The sealed object in a file. Raises DamageError, which names the file, if it was changed."""
    return verify_seal(read_object(path, DamageError), str(path), required)


def read_sealed_rows(path: Path, required: bool = False) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file that was written at once; if any row is sealed, all have to be."""
    rows = list(read_objects(path, DamageError))
    required = required or any(SEAL in row for row in rows)
    return [verify_seal(row, f"{path}:{number}", required) for number, row in enumerate(rows, 1)]


@dataclass(frozen=True, slots=True)
class Member:
    """A complete gzip member: its end in the file in bytes, its seal, and its decompressed content."""

    end: int
    seal: str
    data: bytes


def pack_member(data: bytes, previous_seal: str = FIRST) -> tuple[bytes, str]:
    """The bytes and the seal of a gzip member that follows the member with the seal `previous_seal`."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = packer.compress(data) + packer.flush()
    body += zlib.crc32(data).to_bytes(4, "little") + (len(data) % 2**32).to_bytes(4, "little")
    seal = _seal(body, previous_seal)
    start = _FIXED + _MAGIC + b"%016x  " % len(body) + seal.encode() + b" "
    return start + b"%08x\0" % zlib.crc32(start) + body, seal


def _seal(body: bytes, previous_seal: str) -> str:
    return hashlib.sha256(previous_seal.encode() + body).hexdigest()


def read_members(path: Path) -> Iterator[Member]:
    """The complete members of a file, in order; an incomplete one at the end, left by a killed writer, is skipped.

    Raises DamageError, which names the file and the offset, for changed content.
    """
    size, end, previous_seal = path.stat().st_size, 0, FIRST
    with path.open("rb") as file:
        while end < size:
            file.seek(end)
            try:
                member = _next(file, end, size, previous_seal)
            except ValueError as reason:
                raise DamageError(
                    f"{path} is damaged at byte {end:,} of {size:,}: {reason}; it is left as it is: restore it, or "
                    "move its folder away to sample again"
                ) from None
            if member is None:
                return
            end, previous_seal = member.end, member.seal
            yield member


def _next(file: BinaryIO, start: int, size: int, previous_seal: str) -> Member | None:
    """The member at `start`; None if the file ends before it does. Raises ValueError with the fault."""
    header = file.read(_HEADER)
    if header[: len(_OLDER)] == _OLDER and previous_seal == FIRST:
        file.seek(start)
        return _older(file, start)
    magic = (_FIXED + _MAGIC)[: len(header)]
    if header[: len(magic)] != magic:
        raise ValueError("no rows begin there")
    if len(header) < _HEADER:
        return None
    if header[_CHECK_AT:] != b"%08x\0" % zlib.crc32(header[:_CHECK_AT]):
        raise ValueError("the header of the rows that begin there was changed")
    length, seal = int(header[len(magic) : len(magic) + 16], 16), header[_SEAL_AT : _SEAL_AT + 64].decode()
    if start + _HEADER + length > size:
        return None
    body = file.read(length)
    if _seal(body, previous_seal) != seal:
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
            raise ValueError(f"invalid gzip data ({reason})") from None
    return Member(file.tell() - len(reader.unused_data), FIRST, b"".join(parts))
