"""Versions of verifiers, stored with every grade: a stored grade is only reused if it was given by the same version."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from obverse.rewards.composite import parse_verifiers
from obverse.rewards.python_file import code_of, split_spec
from obverse.runtime import fingerprint
from obverse.types import Problem

LIBRARIES = ("math-verify", "latex2sympy2_extended", "sympy", "mpmath")  # used by computer algebra


def identity(spec: str) -> str:
    """Return a `verifier` option with the sha256 of a user's code in place of its path, and every weight.

    Equal code in different folders has the same identity; built-in verifiers keep their name. Errors: ConfigError for a
    file that cannot be read.

    Example:
        identity("math,my.py:style*0.2") == "math*1.0,style@41ae...*0.2"
    """
    return ",".join(
        f"{split_spec(name)[1]}@{code_of(name).sha256}*{weight!r}" if ".py" in name else f"{name}*{weight!r}"
        for name, weight in parse_verifiers(spec)
    )


def full_identity(spec: str) -> str:
    """Return `identity` with the `package_fingerprint` added to every built-in verifier."""
    return ",".join(
        part if "@" in part else f"{part.partition('*')[0]}@{package_fingerprint()}*{part.partition('*')[2]}"
        for part in identity(spec).split(",")
    )


def without_folders(spec: str) -> str:
    """Return a `verifier` option with file names in place of paths."""
    parts = [part.strip() for part in spec.split(",")]
    return ",".join(part.rpartition("/")[2] if ".py" in part else part for part in parts)


def grader_version(problem: Problem) -> str:
    """Return a hash of everything but the completion that a grade depends on: the verifier's code and the row."""
    grader = full_identity(problem.verifier) if problem.verifier else None
    fields = [grader, problem.answer, problem.demonstration, dict(problem.meta)]
    text = json.dumps(fields, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@cache
def package_fingerprint() -> str:
    """Return the sha256 of this package's code and of the versions of the libraries that it grades with."""
    parts = [f"{path.name} {fingerprint.file(path)}" for path in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256("\n".join([*parts, *map(_installed, LIBRARIES)]).encode()).hexdigest()


def _installed(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name
