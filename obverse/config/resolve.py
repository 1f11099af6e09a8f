"""From the options of several sources to one configuration: which value holds, and where it came from.

command line > --config file > preset of the embedded base > the paper's run options > the sampler's > default
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import PydanticUserError, ValidationError

from obverse.config.fields import Options
from obverse.config.method_options import method_schema, train_schema
from obverse.config.sources import COMMAND_LINE, Layer, sentences
from obverse.config.train import EMBEDDED_PRESET, TrainConfig
from obverse.errors import ConfigError
from obverse.methods import call
from obverse.redact import secret_of

# A run stores its options in files that users share.
REFUSED = (
    "holds {kind}, and options are stored: leave it out; a server's key is read from the "
    "environment's VLLM_API_KEY, the hub's from HF_TOKEN"
)

AnyOptions = TypeVar("AnyOptions", bound=Options)


def resolve(
    method: str, make: Callable[..., Any], given: Mapping[str, Any] | Layer | None = None, file: Layer | None = None
) -> TrainConfig:
    """The configuration of a run: `given` over `file` over the preset, the paper's options and the defaults.

    `given` are options of the command line, or a Layer of another origin. Raises ConfigError with every problem of both
    layers, one per line.

    Example:
        resolve("hpt", find("hpt"), {"learning_rate": "2e-5", "gate": 1}).method_options["gate"] == 1
    """
    schema, hint = train_schema(make), f"see 'obverse train {method} --help'"
    layers = [given if isinstance(given, Layer) else Layer(COMMAND_LINE, given or {})]
    layers += [_without(file, "method")] if file else []
    partial = read(schema, layers, hint, {"method": method})
    names = {name for layer in layers for name in layer.values if name in partial.method_options}
    options = {name: partial.method_options[name] for name in names}
    layers += [
        Layer("embedded preset", EMBEDDED_PRESET if partial.model == "embedded" else {}),
        Layer("paper", call(method, make, options).run),
        Layer("sampler", correction(method, make, partial, options)),
    ]
    config = read(schema, layers, hint, {"method": method})
    if config.learning_rate is None:
        raise ConfigError(f"method {method} names no learning rate: give --learning_rate")
    return config


def correction(
    method: str, make: Callable[..., Any], config: TrainConfig, options: Mapping[str, Any]
) -> dict[str, str]:
    """Truncated importance sampling where a vLLM server or an older policy samples, for methods that accept it."""
    if (config.sampler == "hf" and not config.async_sampling) or "importance_sampling" not in config.of_method:
        return {}
    truncation = {"importance_sampling": "token_truncate"}
    try:
        call(method, make, {**options, **truncation})
    except ConfigError:  # the method has no policy gradient on its own samples
        return {}
    return truncation


def method_options(method: str, make: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a method's function is called with, defaults included, for commands that do not train."""
    options = read(method_schema(make), [Layer(COMMAND_LINE, given)], f"see 'obverse explain {method}'")
    return {name: getattr(options, name) for name in type(options).model_fields}


def read(
    schema: type[AnyOptions], layers: list[Layer], hint: str, fixed: Mapping[str, Any] | None = None
) -> AnyOptions:
    """The options of a schema, each from the first layer that gives it; ConfigError with a line per bad option.

    `hint` ends the message on an unknown option without a similar name. `fixed` are fields that no layer may give.
    """
    merged: dict[str, Any] = {}
    layer_of: dict[str, Layer] = {}
    problems: list[str] = []
    for layer in layers:
        cleaned, problems_of_names = layer.cleaned(schema, hint)
        problems += problems_of_names
        for name, value in cleaned.values.items():
            if kind := secret_of(value):
                problems.append(layer.problem(f"{layer.spell(name)}: {REFUSED.format(kind=kind)}"))
            # learning_rate none means the paper's, which a later layer gives
            if name not in merged and not (name == "learning_rate" and value is None):
                merged[name], layer_of[name] = value, layer
    origins = {name: layer.origin for name, layer in layer_of.items()}
    try:
        config = schema.model_validate({**(fixed or {}), **merged}, context={"origins": origins})
    except ValidationError as error:
        refused = [
            line for line in sentences(error.errors(), layer_of) if not line.endswith("is required") or not problems
        ]
        raise ConfigError("\n".join([*problems, *refused])) from None
    except PydanticUserError as error:
        raise ConfigError(
            f"{schema.__name__}: a parameter has a type that no option can have: {error.message}"
        ) from None
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def refuse_secrets(config: Options) -> None:
    """Raise ConfigError for a configuration that was not made by `read` and holds a secret in what would be stored."""
    values = config.model_dump(mode="json")
    kinds = {name: kind for name, value in values.items() if (kind := secret_of(value))}
    if kinds:
        raise ConfigError("\n".join(f"--{name}: {REFUSED.format(kind=kind)}" for name, kind in kinds.items()))


def _without(layer: Layer, name: str) -> Layer:
    return Layer(layer.origin, {key: value for key, value in layer.values.items() if key != name})
