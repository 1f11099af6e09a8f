"""From what was written to what will run: which value wins, where it came from.

command line > --config file > preset of the embedded base > the paper's run options > the sampler's > default
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import PydanticUserError, ValidationError

from obverse.config.fields import Options
from obverse.config.sources import COMMAND_LINE, Layer, sentences
from obverse.config.train import EMBEDDED_PRESET, TrainConfig, method_schema, schema
from obverse.errors import ConfigError
from obverse.methods import call
from obverse.redact import secret_of

# A run stores its options as they were used, in files that are passed on.
REFUSED = (
    "holds {kind}, and options are stored: leave it out; a server's key is read from the "
    "environment's VLLM_API_KEY, the hub's from HF_TOKEN"
)

AnyOptions = TypeVar("AnyOptions", bound=Options)


def resolve(
    method: str, make: Callable[..., Any], given: Mapping[str, Any] | None = None, file: Layer | None = None
) -> TrainConfig:
    """The configuration of a run: `given` (the command line) over `file` over preset, paper and defaults.

    Raises ConfigError with every problem of both layers, one per line.

    Example:
        resolve("hpt", find("hpt"), {"learning_rate": "2e-5", "gate": 1}).method_options["gate"] == 1
    """
    made, see = schema(make), f"see 'obverse train {method} --help'"
    layers = [Layer(COMMAND_LINE, given or {}), *([_without(file, "method")] if file else [])]
    written = read(made, layers, see, {"method": method})
    chosen = {name for layer in layers for name in layer.values if name in written.method_options}
    preset = EMBEDDED_PRESET if written.model == "embedded" else {}
    options = {name: written.method_options[name] for name in chosen}
    paper = call(method, make, options).run
    layers += [Layer("embedded preset", preset), Layer("paper", paper)]
    layers.append(Layer("sampler", correction(method, make, written, options)))
    config = read(made, layers, see, {"method": method})
    if config.learning_rate is None:
        raise ConfigError(f"method {method} names no learning rate: give --learning_rate")
    return config


def correction(
    method: str, make: Callable[..., Any], written: TrainConfig, options: Mapping[str, Any]
) -> dict[str, str]:
    """Truncated importance sampling where another program samples, or an older policy, if the method can have it."""
    if (written.sampler == "hf" and not written.async_sampling) or "importance_sampling" not in written.of_method:
        return {}
    found = {"importance_sampling": "token_truncate"}
    try:
        call(method, make, {**options, **found})
    except ConfigError:  # it has no policy gradient on own samples
        return {}
    return found


def method_options(method: str, make: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a method's function is called with, for commands that train nothing; defaults included."""
    options = read(method_schema(make), [Layer(COMMAND_LINE, given)], f"see 'obverse explain {method}'")
    return {name: getattr(options, name) for name in type(options).model_fields}


def read(made: type[AnyOptions], layers: list[Layer], see: str, fixed: Mapping[str, Any] | None = None) -> AnyOptions:
    """The first layer's value of every option; ConfigError names each bad one as it was written."""
    merged: dict[str, Any] = {}
    origins: dict[str, Layer] = {}
    problems: list[str] = []
    for layer in layers:
        clean, found = layer.cleaned(made, see)
        problems += found
        for name, value in clean.values.items():
            if kind := secret_of(value):
                problems.append(layer.problem(f"{layer.spell(name)}: {REFUSED.format(kind=kind)}"))
            # no learning rate is no choice: it means the paper's
            if name not in merged and not (name == "learning_rate" and value is None):
                merged[name], origins[name] = value, layer
    try:
        config = made(**(fixed or {}), **merged)
    except ValidationError as error:
        refused = [
            line for line in sentences(error.errors(), origins) if not line.endswith("is required") or not problems
        ]
        raise ConfigError("\n".join([*problems, *refused])) from None
    except PydanticUserError as error:
        raise ConfigError(f"{made.__name__}: a parameter has a type that no option can have: {error.message}") from None
    if problems:
        raise ConfigError("\n".join(problems))
    config._origins.update({name: layer.origin for name, layer in origins.items()})
    return config


def refuse_secrets(config: Options) -> None:
    """Raise ConfigError for a configuration that was not made by `read` and holds a secret in what would be stored."""
    values = config.model_dump(mode="json")
    found = {name: kind for name, value in values.items() if (kind := secret_of(value))}
    if found:
        raise ConfigError("\n".join(f"--{name}: {REFUSED.format(kind=kind)}" for name, kind in found.items()))


def _without(layer: Layer, name: str) -> Layer:
    return Layer(layer.origin, {key: value for key, value in layer.values.items() if key != name})
