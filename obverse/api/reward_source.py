"""Reward functions of the calling program as `file.py:function`.

A function at the top level of a Python file is named as it is. Any other function (of a notebook cell, a script, a
lambda, a closure) becomes a file of the run folder: see `function_source`.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

from obverse import python_files
from obverse.api.file_equality import defines, difference
from obverse.api.function_source import (
    ADVICE,
    MAIN,
    FunctionFile,
    NotWritableError,
    imported,
    is_member,
    name_of,
    path_of,
    write_source,
)
from obverse.errors import ConfigError

Reward = str | Callable[..., Any]


def reward_files(rewards: Reward | Sequence[Reward]) -> list[FunctionFile]:
    """Return each reward as a name or a file. Raises ConfigError for a function that cannot be written to a file."""
    if isinstance(rewards, str) or callable(rewards):
        rewards = [rewards]
    if not isinstance(rewards, Sequence) or not rewards:
        raise ConfigError(
            "reward: expects a name, a file.py:function, a function or a list of them, "
            f"not {'an empty list' if isinstance(rewards, Sequence) else f'a {type(rewards).__name__}'}"
        )
    files: list[FunctionFile] = []
    for reward in rewards:
        file = FunctionFile(reward) if isinstance(reward, str) else file_of(reward)
        number = 2
        while file.text and file.function in {earlier.function for earlier in files}:  # their figures have these names
            file = file_of(reward, f"{file.function.removesuffix(f'_{number - 1}')}_{number}")
            number += 1
        files.append(file)
    return files


def file_of(reward: Any, name: str = "") -> FunctionFile:
    """Return a reward function as a file; `name` replaces the function's in a file that is to be written.

    Raises ConfigError if it can be neither named nor written.
    """
    if not isinstance(reward, FunctionType | BuiltinFunctionType):
        kind = "a method" if inspect.ismethod(reward) else f"a {type(reward).__name__}"
        raise ConfigError(f"reward: {name_of(reward)} is {kind}, not a function: {ADVICE}")
    if reward.__module__.startswith(python_files.PREFIX):
        raise ConfigError(
            f"reward {name_of(reward)}: its file trains while it is read: put the call under if __name__ == '__main__':"
        )
    try:
        return _importable(reward) or write_source(reward, "reward", name)
    except NotWritableError as error:
        path = path_of(reward)
        is_of_script = is_member(reward, sys.modules.get(reward.__module__))
        if path and is_of_script and isinstance(reward, FunctionType) and _is_defined(reward, Path(path)):
            return _of_file(reward, path)
        raise ConfigError(f"reward {name_of(reward)}: {error}: {ADVICE}") from None


def _importable(function: FunctionType | BuiltinFunctionType) -> FunctionFile | None:
    """A function that another process can import; None for one of the main program, or inside a function."""
    module = sys.modules.get(function.__module__ or "")
    if module is None or function.__module__ == MAIN or not is_member(function, module):
        return None
    path = getattr(module, "__file__", None)
    if path is None or not path.endswith(".py") or python_files.is_installed(Path(path)):
        return imported(function, "reward")
    return imported(function, "reward") if _has_relative_imports(Path(path)) else _of_file(function, path)


def _of_file(function: FunctionType | BuiltinFunctionType, path: str) -> FunctionFile:
    """A function of a Python file. Raises ConfigError if the file defines another one than that in memory."""
    changed = None
    if isinstance(function, FunctionType):
        module = sys.modules.get(function.__module__)
        changed = difference(function, function.__name__, python_files.read(path), module)
    if changed:
        raise ConfigError(f"reward {name_of(function)}: {changed}")
    return FunctionFile(path, function.__name__)


def _is_defined(function: FunctionType, path: Path) -> bool:
    """Whether a script with `if __name__ == "__main__":` defines a function, and what it reads, when it is imported."""
    text = path.read_bytes()
    return b"__name__" in text and defines(text, function)


def _has_relative_imports(path: Path) -> bool:
    """Whether a file can be imported only as a part of its package."""
    nodes = ast.walk(ast.parse(path.read_bytes()))
    return any(isinstance(node, ast.ImportFrom) and node.level > 0 for node in nodes)
