"""Which version of which verifier gives a verdict: what a stored verdict is held against before it is used again."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from obverse.rewards.composite import split
from obverse.rewards.python_file import code_of, parted
from obverse.runtime import fingerprint
from obverse.types import Problem

LIBRARIES = ("math-verify", "latex2sympy2_extended", "sympy", "mpmath")  # what computer algebra is made of


def identity(spec: str) -> str:
    """Return what names the verifiers of a text by their content: a user's function with the sha256 of its code.

    Equal code at other places has the same identity; what ships with obverse is named by its name. Errors: ConfigError
    for a file that cannot be read.

    Example:
        identity("math,my.py:style*0.2") == "math*1.0,style@41ae...*0.2"
    """
    return ",".join(
        f"{parted(name)[1]}@{code_of(name).sha256}*{weight!r}" if ".py" in name else f"{name}*{weight!r}"
        for name, weight in split(spec)
    )


def full(spec: str) -> str:
    """Return the same with the sha256 of the code, and of the libraries' versions, behind what ships with obverse."""
    return ",".join(
        each if "@" in each else f"{each.partition('*')[0]}@{shipped()}*{each.partition('*')[2]}"
        for each in identity(spec).split(",")
    )


def plain(spec: str) -> str:
    """Return a text that names verifiers without the folders of files: how they are called wherever they lie."""
    parts = [part.strip() for part in spec.split(",")]
    return ",".join(part.rpartition("/")[2] if ".py" in part else part for part in parts)


def of_verdict(problem: Problem) -> str:
    """Return what names all that a verdict on the problem depends on beside the text: the verifier and the row."""
    judged = full(problem.verifier) if problem.verifier else None
    about = [judged, problem.answer, problem.demonstration, dict(problem.meta)]
    text = json.dumps(about, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@cache
def shipped() -> str:
    """Return the sha256 of this folder's code and of the versions of the libraries that it grades with."""
    parts = [f"{path.name} {fingerprint.file(path)}" for path in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256("\n".join([*parts, *map(_installed, LIBRARIES)]).encode()).hexdigest()


def _installed(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name
