"""The keyword parameters of a method's function as options. No torch here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pydantic import create_model

from obverse.config.fields import Options, option
from obverse.config.train import TrainConfig
from obverse.errors import ConfigError
from obverse.estimator.schedule import as_schedule
from obverse.methods import added_parameters, option_help
from obverse.types import Source


def method_fields(make: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """The keyword parameters of a method's function as pydantic fields: (type, field). Defaults are the function's.

    A parameter without an annotation has its default's type; counts (`num_*`, `max_*`) are at least 1. The help text of
    a parameter that is also an option of the run is the run's, that of others is in the method's docstring.
    """
    texts = option_help(make)
    fields: dict[str, tuple[Any, Any]] = {}
    for name, parameter in inspect.signature(make, eval_str=True).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        run_option = TrainConfig.model_fields.get(name)
        if run_option is None and hasattr(TrainConfig, name):
            raise ConfigError(f"{make.__name__}: a parameter called {name} cannot be an option: give it another name")
        default = ... if parameter.default is parameter.empty else parameter.default
        kind = parameter.annotation
        if kind is parameter.empty:
            kind = Any if default in (..., None) else type(default)
        bounds: dict[str, Any] = {"ge": 1} if kind is int and name.startswith(("num_", "max_")) else {}
        text = run_option.description if run_option else texts.get(name)
        fields[name] = (kind, option("method", text or f"option of {make.__name__}", default, **bounds))
    return fields


def train_schema(make: Callable[..., Any]) -> type[TrainConfig]:
    """TrainConfig with the options of a method added; a name that both have is the run's option."""
    fields = method_fields(make)
    added: dict[str, Any] = {name: field for name, field in fields.items() if name not in TrainConfig.model_fields}
    schema = create_model(f"{make.__name__}_config", __base__=TrainConfig, __doc__=TrainConfig.__doc__, **added)
    schema.of_method = tuple(fields)
    return schema


def with_essentials(schema: type[TrainConfig], make: Callable[..., Any]) -> type[TrainConfig]:
    """The schema of a method with the options that matter to it as `essential`.

    They are the parameters of the method's own function and those of every run; of grading and sampling only if the
    method trains on rollouts, or if a required parameter prevents finding out; of a teacher only if it is another one.
    """
    added, parameters = added_parameters(make), inspect.signature(make).parameters
    samples, reads_model = True, False
    if all(parameter.default is not parameter.empty for parameter in parameters.values()):
        stage_methods = as_schedule(make()).methods
        samples = any(Source.ROLLOUT in method.sources for method in stage_methods)
        reads_model = any(method.teacher is not None and method.teacher.who == "model" for method in stage_methods)
    of_method = [name for name in schema.of_method if name not in added and name not in TrainConfig.to_sample]
    teacher = TrainConfig.of_teachers if reads_model else ()
    schema.essential = (*of_method, *teacher, *TrainConfig.to_train, *(TrainConfig.to_sample if samples else ()))
    return schema


def method_schema(make: Callable[..., Any]) -> type[Options]:
    """The options of a method without those of a run, for commands that do not train."""
    fields: dict[str, Any] = dict(method_fields(make))
    return create_model(f"{make.__name__}_options", __base__=Options, **fields)
