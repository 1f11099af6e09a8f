"""A method of the calling program: a name, a function of a Python file or of a notebook cell, or a value."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from obverse import python_files
from obverse.api.file_equality import difference
from obverse.api.function_source import LAMBDA, MAIN, FunctionFile, NotWritableError, path_of, write_source
from obverse.config.resolve import method_options
from obverse.errors import ConfigError
from obverse.estimator.method import Method
from obverse.estimator.schedule import TrainingSchedule, as_schedule
from obverse.methods import MakeMethod, call, composable, find, name_of

AnyMethod = str | MakeMethod | Method | TrainingSchedule


@dataclass(frozen=True)
class NamedMethod:
    """A method's name and function; `file` is to be written into the run folder, and then names the method."""

    name: str
    make: Callable[..., Any]
    file: FunctionFile | None = None

    def placed(self, folder: Path | None) -> NamedMethod:
        """The method as it is named once its file is in `folder`; None: before there is one."""
        if self.file is None or folder is None:
            return self
        name = self.file.spec(folder)
        return NamedMethod(name, find(name), self.file)


def method_of(method: str | MakeMethod) -> NamedMethod:
    """Return a method by its name or function. Raises ConfigError for one that a resumed run could not find again."""
    if not isinstance(method, FunctionType) or not _is_interactive(method):
        name = name_of(method)
        if isinstance(method, FunctionType) and ":" in name:
            _require_unchanged(method, name.rpartition(":")[0])
        return NamedMethod(name, find(name))
    try:
        file = write_source(method, "method")
    except NotWritableError as error:
        advice = "move it to the top level of a Python file"
        raise ConfigError(f"method {method.__name__}: {error}: {advice}") from None
    return NamedMethod(method.__name__, composable(method), file)


def _is_interactive(function: FunctionType) -> bool:
    """Whether a function has a name, and no file of its own."""
    return function.__module__ == MAIN and function.__name__ != LAMBDA and path_of(function) is None


def _require_unchanged(method: FunctionType, path: str) -> None:
    """Raise ConfigError if a method's file defines another function than the one in memory."""
    if changed := difference(method, method.__name__, python_files.read(path), sys.modules.get(method.__module__)):
        raise ConfigError(f"method {method.__name__}: {changed}")


def schedule_of(method: AnyMethod, options: Mapping[str, Any]) -> tuple[str, TrainingSchedule]:
    """Return the name and the stages of a method with `options`. Raises ConfigError for the options."""
    if isinstance(method, Method | TrainingSchedule):
        if options:
            raise ConfigError(f"the method is a value and takes no options: leave out {', '.join(options)}")
        return "method", as_schedule(method)
    name = method if isinstance(method, str) else getattr(method, "__name__", "method")
    make = find(method) if isinstance(method, str) else composable(method)
    return name, as_schedule(call(name, make, method_options(name, make, options)))
