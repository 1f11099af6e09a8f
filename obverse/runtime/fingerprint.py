"""sha256 of a run's inputs: data rows, texts, and model files, independent of their paths.

Files are hashed completely, in blocks of BLOCK bytes on all cores: the value is the sha256 of the blocks' sha256. A
process hashes a file again only when its size, times or inode have changed.
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

from obverse.runtime.progress import report_progress
from obverse.types import Problem

BLOCK = 2**26
WEIGHTS = (".safetensors", ".bin")
TEXT_FILES = (".json", ".jinja", ".model", ".txt", ".tiktoken")  # configuration, tokenizer, templates
# files of a checkpoint that are not part of its model
OF_THE_RUN = frozenset({"manifest.json", "state.json", "optimizer.safetensors", "trainer_state.json"})


def rows(problems: Iterable[Problem], row_verifiers: bool = True) -> str:
    """The sha256 of all fields of the problems that prompts, grading or training read, in order.

    `row_verifiers` is False if an option replaces the verifiers of all rows, which are then not included.
    """
    digest = hashlib.sha256()
    for problem in problems:
        names = ("id", "prompt", "answer", "demonstration", "chosen", "rejected", "meta")
        fields: dict[str, object] = {name: getattr(problem, name) for name in names}
        fields["meta"] = dict(problem.meta)
        fields["verifier"] = problem.verifier if row_verifiers else None
        if problem.template:
            fields["template"] = dict(problem.template)
        line = json.dumps(fields, sort_keys=True, default=repr)
        digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def text(value: str) -> str:
    """The sha256 of a text in UTF-8."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


def file(path: Path) -> str:
    """The fingerprint of a file's content. Raises OSError."""
    stat = path.stat()
    return _file(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


@cache
def _file(path: str, size: int, *_changed: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with ThreadPoolExecutor(min(os.cpu_count() or 1, max(1, size // BLOCK))) as threads:
        starts = range(0, size, BLOCK)
        for start, block in zip(starts, threads.map(lambda start: _block(path, start), starts), strict=True):
            digest.update(block)
            if size > BLOCK:
                report_progress("hash", min(start + BLOCK, size), size)
    return digest.hexdigest()


def _block(path: str, start: int) -> bytes:
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        stream.seek(start)
        remaining = BLOCK
        while remaining and (part := stream.read(min(remaining, 2**20))):
            digest.update(part)
            remaining -= len(part)
    return digest.digest()


def model(folder: Path, weights_only: bool = False) -> str:
    """The fingerprint of a model folder: weights and configuration, unless `weights_only` also tokenizer and templates.

    Raises OSError.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        is_weights = path.suffix in WEIGHTS or path.name == "config.json"
        if path.name not in OF_THE_RUN and (is_weights or (path.suffix in TEXT_FILES and not weights_only)):
            digest.update(f"{path.name} {file(path)}\n".encode())
    return digest.hexdigest()


def short(value: str) -> str:
    """A text with every sha256 in it shortened to 12 digits, for display.

    Example: `score@0f3a...*1.0` is `score@0f3a5b1c9d2e*1.0`
    """
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", value)
