"""The methods. The folder is the registry: `methods/hpt.py` defines the function `hpt`, and nothing else registers it.

The keyword parameters of a method's function are its configuration schema and its command line options; their defaults
are the paper's values, and the docstring's `Options` section is their help. A user's own method is
`path/to/file.py:function`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from obverse import python_files
from obverse.errors import ConfigError, UserError
from obverse.estimator.method import Method
from obverse.estimator.schedule import TrainingSchedule
from obverse.methods._components import TEXTS, compose
from obverse.methods._docstring import split_options
from obverse.python_files import Code
from obverse.types import Source

MakeMethod = Callable[..., Method | TrainingSchedule]
LONGEST = "max_completion_length"  # means the same to a method that has it and to its components
COMPONENTS = dict(list(inspect.signature(compose, eval_str=True).parameters.items())[1:])


def names() -> list[str]:
    """The methods that ship with obverse, found by listing this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def find(name: str) -> MakeMethod:
    """The function behind a method name or `file.py:function`; ConfigError with the nearest name for an unknown one."""
    if ":" in name:
        return _from_file(name)
    if name.endswith(".py"):
        raise ConfigError(f"method {name!r}: which function of the file? write it as {name}:function")
    if name not in names():
        near = difflib.get_close_matches(name.lower().replace("-", "_"), names(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names())}, or your own file.py:function"
        raise ConfigError(f"unknown method {name!r}: {hint}")
    return composable(getattr(importlib.import_module(f"obverse.methods.{name}"), name))


def name_of(method: str | MakeMethod) -> str:
    """The name by which `find` gives a method: a text as it is, a function's own name, or its `file.py:function`.

    Raises ConfigError for a function that a resumed run could not find again: a lambda, a nested or interactive one.
    """
    if isinstance(method, str):
        return method
    function = inspect.unwrap(method)
    name, module = getattr(function, "__qualname__", repr(function)), getattr(function, "__module__", "")
    if module == f"{__name__}.{name}":
        return name
    if module.startswith(python_files.PREFIX):
        raise ConfigError(
            f"method {name}: its file trains while it is read: put the call under if __name__ == '__main__':"
        )
    try:
        path = inspect.getsourcefile(function)
    except TypeError:
        path = None
    if path is None or not Path(path).is_file() or not name.isidentifier():
        raise ConfigError(
            f"method {name}: give a function at the top level of a Python file, so that it can be resumed"
        )
    return f"{path}:{name}"


def composable(make: MakeMethod) -> MakeMethod:
    """The method's function with the options of `compose` added to its own parameters."""
    method_signature = signature(make)
    added = {name: option for name, option in COMPONENTS.items() if name not in method_signature.parameters}

    @functools.wraps(make)
    def make_with_components(**options: Any) -> Method | TrainingSchedule:
        schedule = make(**{name: value for name, value in options.items() if name not in added})
        if not isinstance(schedule, Method | TrainingSchedule):
            kind = type(schedule).__name__
            raise ConfigError(f"{getattr(make, '__name__', kind)} returns a {kind}, not a Method or a TrainingSchedule")
        chosen = {name: value for name, value in options.items() if name in added or name == LONGEST}
        if "kl_coef" not in added and (chosen.get("kl_estimator") or chosen.get("kl_in_reward")):
            raise ConfigError("kl_estimator and kl_in_reward belong to a KL to the initial model, which kl_coef is not")
        if isinstance(schedule, Method):
            return compose(schedule, **chosen)
        # most components act on rollouts: a stage without any keeps its method
        stages = [
            replace(stage, method=compose(stage.method, **chosen)) if Source.ROLLOUT in stage.method.sources else stage
            for stage in schedule.stages
        ]
        return replace(schedule, stages=tuple(stages))

    options = [*method_signature.parameters.values()]
    options += [option.replace(kind=option.KEYWORD_ONLY) for option in added.values()]
    options.sort(key=lambda option: option.kind)  # **kwargs must be last
    make_with_components.__signature__ = method_signature.replace(parameters=options)  # type: ignore[attr-defined]
    return make_with_components


def option_help(make: MakeMethod) -> dict[str, str]:
    """The help text of each option by name: the docstring's `Options` section, and the components' own texts.

    An option that neither describes is missing.
    """
    _, texts = split_options(inspect.getdoc(make) or "")
    return {name: texts.get(name) or TEXTS[name] for name in signature(make).parameters if name in {*texts, *TEXTS}}


def signature(make: MakeMethod) -> inspect.Signature:
    """A method function's parameters with annotations resolved to types; ConfigError where they can be no options."""
    name = getattr(make, "__name__", "the method")
    if inspect.iscoroutinefunction(make):
        raise ConfigError(f"{name} is async: a method's function returns its Method at once, leave async out")
    try:
        method_signature = inspect.signature(make, eval_str=True)
    except Exception as error:  # evaluating a user's annotation may raise anything
        raise ConfigError(f"{name}: its parameters cannot be read: {type(error).__name__}: {error}") from error
    for parameter in method_signature.parameters.values():
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ConfigError(
                f"{name}: the parameter {parameter.name} is positional-only, which no option can be: remove the /"
            )
        if parameter.name.startswith("_") and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            raise ConfigError(f"{name}: the parameter {parameter.name} cannot be an option: no option begins with _")
    return method_signature


def identity(name: str) -> str:
    """What names a method by its content: a user's function with the sha256 of its code. Errors: as of `find`."""
    return f"{name.rpartition(':')[2]}@{_code(name).sha256}" if ":" in name else name


def added_parameters(make: MakeMethod) -> set[str]:
    """The options that `compose` adds to those of the method itself."""
    return set(parameters(make)) - set(inspect.signature(inspect.unwrap(make), eval_str=True).parameters)


def parameters(make: MakeMethod) -> Mapping[str, inspect.Parameter]:
    """The options of a method: its keyword parameters, with annotations resolved to types."""
    return signature(make).parameters


def build(name: str, options: Mapping[str, Any] | None = None) -> Method | TrainingSchedule:
    """The method as a value, with `options` in place of the paper's; an unknown option is a ConfigError."""
    make = find(name)
    accepted = parameters(make)
    for option in options or {}:
        if option not in accepted:
            near = difflib.get_close_matches(option, accepted, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(accepted) or 'no options'}"
            raise ConfigError(f"method {name!r} has no option {option!r}: {hint}")
    return call(name, make, options or {})


def call(name: str, make: MakeMethod, options: Mapping[str, Any]) -> Method | TrainingSchedule:
    """The method as a value; ConfigError for what its function refuses (a ValueError), or raises in a user's file."""
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        raise ConfigError(f"method {name}: {error}") from None
    try:
        return make(**options)
    except ValueError as error:
        accepted = parameters(make)
        is_default = all(key not in accepted or accepted[key].default == value for key, value in options.items())
        # a value that was given is refused on purpose; defaults that raise are a mistake in the file
        raise ConfigError(
            f"method {name}: {error}{python_files.error_location(error) if is_default else ''}"
        ) from error
    except (Exception, SystemExit) as error:
        if isinstance(error, UserError) or not python_files.error_location(error):
            raise
        raise ConfigError(
            f"method {name}: {type(error).__name__}: {error}{python_files.error_location(error)}"
        ) from error


def _code(name: str) -> Code:
    return python_files.read_named("method", name, name.rpartition(":")[0])


def _from_file(name: str) -> MakeMethod:
    path, _, function = name.rpartition(":")
    code = _code(name)
    try:
        module = python_files.load(code)
    except (Exception, SystemExit) as error:  # raised by the user's file; the message names it
        raise ConfigError(
            f"method {name!r}: {path} cannot be loaded: {python_files.load_failure(error, code)}"
        ) from error
    return composable(python_files.function_of(module, function, "method", name, path))
