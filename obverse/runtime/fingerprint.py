"""sha256 of what a run reads: rows of data, texts, and a model's files. What it is counts, never where it lies.

A file is hashed whole, so that one changed byte is noticed, in blocks of BLOCK bytes on all cores: the value is the
sha256 of the blocks' sha256. A process hashes a file again only when its size, times or inode have changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from obverse.types import Problem

BLOCK = 2**26
WEIGHTS = (".safetensors", ".bin")
WORDS = (".json", ".jinja", ".model", ".txt", ".tiktoken")  # configuration, tokenizer, templates
# beside the model in a checkpoint of a run, and read by nothing that loads one
OF_THE_RUN = frozenset({"manifest.json", "state.json", "optimizer.safetensors", "trainer_state.json"})


def rows(problems: Iterable[Problem], own_verifiers: bool = True) -> str:
    """Of every field of problems that reaches prompts, grading or training, in their order.

    Without `own_verifiers` an option has named the verifier of them all, which is then no part of the rows.
    """
    digest = hashlib.sha256()
    for each in problems:
        names = ("id", "prompt", "answer", "demonstration", "chosen", "rejected", "meta")
        fields: dict[str, object] = {name: getattr(each, name) for name in names}
        fields["meta"] = dict(each.meta)
        fields["verifier"] = each.verifier if own_verifiers else None
        if each.template:
            fields["template"] = dict(each.template)
        line = json.dumps(fields, sort_keys=True, default=repr)
        digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def text(value: str) -> str:
    """Of a text."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


def file(path: Path) -> str:
    """Of a file's bytes. Raises OSError."""
    about = path.stat()
    return _file(str(path), about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino)


@cache
def _file(path: str, size: int, *_changed: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with ThreadPoolExecutor(min(os.cpu_count() or 1, max(1, size // BLOCK))) as threads:
        for block in threads.map(lambda start: _block(path, start), range(0, size, BLOCK)):
            digest.update(block)
    return digest.hexdigest()


def _block(path: str, start: int) -> bytes:
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        stream.seek(start)
        left = BLOCK
        while left and (part := stream.read(min(left, 2**20))):
            digest.update(part)
            left -= len(part)
    return digest.digest()


def model(folder: Path, weights_only: bool = False) -> str:
    """Of a model folder: its weights and configuration, and unless `weights_only` its tokenizer and templates.

    Raises OSError.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        is_weights = path.suffix in WEIGHTS or path.name == "config.json"
        if path.name not in OF_THE_RUN and (is_weights or (path.suffix in WORDS and not weights_only)):
            digest.update(f"{path.name} {file(path)}\n".encode())
    return digest.hexdigest()


def short(value: str) -> str:
    """A text with every sha256 in it cut to 12 digits, for a person.

    Example: `score@0f3a...*1.0` is `score@0f3a5b1c9d2e*1.0`
    """
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", value)
