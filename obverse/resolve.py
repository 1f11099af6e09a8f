"""From what was written to what will run: which value wins, where it came from, and where the run goes.

command line > --config file > preset of the embedded base > the paper's run options > the sampler's > default
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import PydanticUserError, ValidationError

from obverse import history
from obverse.config import EMBEDDED_PRESET, TrainConfig, method_schema, schema
from obverse.errors import ConfigError
from obverse.layers import COMMAND_LINE, Layer, sentences
from obverse.methods import call
from obverse.options import Options
from obverse.secrecy import masked, secret_of

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


def with_folder(config: TrainConfig, root: Path = Path("runs"), create: bool = True) -> TrainConfig:
    """The configuration with its run folder: the one it names, else the next free `runs/METHOD-DATASET-N`.

    A folder that holds a run is refused unless the run is resumed.
    """
    resumes = config.resume_from_checkpoint != "never"
    if config.output_dir is not None:
        if holds_run(config.output_dir) and not resumes:
            raise ConfigError(
                f"--output_dir: {config.output_dir} already holds a run: continue it with "
                "--resume_from_checkpoint auto, or give another --output_dir"
            )
        return config
    if resumes and config.resume_from_checkpoint == "auto":
        raise ConfigError("--resume_from_checkpoint auto needs --output_dir: the folder of the run to continue")
    if resumes:
        path = Path(config.resume_from_checkpoint).expanduser()
        folder = path.resolve().parent
        folder = folder if path.is_absolute() else Path(os.path.relpath(folder))
        if not (folder / "config.yaml").is_file() or folder.resolve().parent.name == history.FOLDER:
            raise ConfigError(
                f"--resume_from_checkpoint: {config.resume_from_checkpoint} stands in no run's folder: give "
                "--output_dir, a new or empty folder, to go on from it there"
            )
        return config.model_copy(update={"output_dir": folder})
    folder = free_folder(root, f"{slug(config.method)}-{slug(config.dataset)}", create)
    return config.model_copy(update={"output_dir": folder})


def refuse_moved(config: TrainConfig, file: str | Path, is_given: bool) -> None:
    """Raise ConfigError where a run is to go on by its own config.yaml, which names another folder than it lies in.

    It is relative to another place, or the folder was moved or copied: what it names may be another run, or none.
    `is_given`: the command line has an output_dir, which wins.
    """
    home = Path(file).expanduser().parent
    is_own = Path(file).name == "config.yaml" and (home / "environment.json").is_file()
    if is_given or not is_own or config.resume_from_checkpoint == "never" or config.output_dir is None:
        return
    if config.output_dir.resolve() != home.resolve():
        raise ConfigError(
            f"--config: {file} stands in {home.resolve()} and names {config.output_dir.resolve()} as its output_dir: "
            "say which of them goes on by --output_dir"
        )


def free_folder(root: Path, name: str, create: bool = True, at_least: int = 1) -> Path:
    """The next free `root/name-N`; `create` makes it at once, so that two runs started together never share it."""
    taken = [
        int(path.name.rpartition("-")[2])
        for path in root.glob(f"{name}-*")
        if re.fullmatch(rf"{re.escape(name)}-\d+", path.name)
    ]
    number = max(at_least, max(taken, default=0) + 1)
    while create and not _claimed(root / f"{name}-{number}"):
        number += 1
    return root / f"{name}-{number}"


def holds_run(folder: Path) -> bool:
    """Whether a run has written there; a folder that cannot be read holds none, and is refused where it is made."""
    try:
        if any((folder / name).exists() for name in ("config.yaml", "metrics.jsonl")):
            return True
        return any(folder.glob("checkpoint-*")) or bool(history.later(folder, -1, 0))
    except OSError:
        return False


def _claimed(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def slug(name: str) -> str:
    """A name as part of a folder's name: `arithmetic:1-6` is `arithmetic-1-6`, `data/gsm8k.jsonl` is `gsm8k`."""
    head, colon, tail = masked(name).partition(":")
    text = Path(head).stem + (f"-{tail}" if colon else "")
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:40] or "run"
