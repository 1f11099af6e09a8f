"""`obverse init`: a commented configuration file with the options that matter to a method. No torch here."""

from __future__ import annotations

import inspect
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

from obverse.cli.parser import choices
from obverse.config.commands import InitConfig
from obverse.config.method_options import train_schema, with_essentials
from obverse.config.resolve import resolve
from obverse.config.train import TrainConfig
from obverse.config.yaml_file import line
from obverse.errors import ConfigError
from obverse.methods import MakeMethod, find
from obverse.methods._learning_rates import published_rates
from obverse.redact import flat
from obverse.runtime.file_writes import storage_errors

WIDTH = 110  # columns of a comment
ACTIVE = ("model", "dataset")  # the options that are written without a comment sign, beside the method


def run(config: InitConfig) -> int:
    """`obverse init METHOD [--model M] [--dataset D] [--output FILE.yaml]`; an existing file is refused."""
    path = config.output or Path(f"{config.method.rpartition(':')[2]}.yaml")
    text = starter_file(config.method, find(config.method), config.model, config.dataset, path)
    with storage_errors(path, "give another --output"):
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise ConfigError(f"{path} exists and is not overwritten: give another --output") from None
        except (FileNotFoundError, NotADirectoryError):
            raise ConfigError(f"{path}: its folder does not exist: create it, or give another --output") from None
    print(flat(f"wrote {path}: change it, then train with {train_command(path)}"))
    return 0


def train_command(path: Path) -> str:
    """The command that trains by a file, with the path quoted for a shell."""
    return f"obverse train --config {shlex.quote(str(path))}"


def starter_file(method: str, make: MakeMethod, model: str, dataset: str, path: Path) -> str:
    """The text of a configuration file for a method, with the path that it is written to in its first comment.

    Method, model and dataset are set; the other options are comments that hold the values a run has without them.
    """
    config = resolve(method, make, {"model": model, "dataset": dataset})
    schema = with_essentials(train_schema(make), make)
    word = flat(shlex.quote(method))
    lines = [
        *_comment((inspect.getdoc(make) or f"A run of {method}.").partition("\n")[0]),
        "#",
        f"#     {flat(train_command(path))}",
        "#",
        "# A line that is commented out holds the value of a run without it; remove its '# ' to change the value.",
        f"# All options: obverse train {word} --help-all. The method: obverse explain {word}",
        line("method", method),
    ]
    values = {**config.model_dump(mode="json"), **config.method_options}
    for group, names in schema.essential_groups().items():
        lines += ["", f"# ---- {group}"]
        for name in names:
            lines += ["", *_option(schema, config, name), _value(name, values[name], name in ACTIVE)]
    return "\n".join(lines) + "\n"


def _option(schema: type[TrainConfig], config: TrainConfig, name: str) -> Iterator[str]:
    """What an option is, its choices, where a value that is no default is from, and published learning rates."""
    origin = {"paper": " The value is the paper's.", "embedded preset": " The value is for --model embedded."}
    text = f"{schema.model_fields[name].description}{choices(schema, name)}."
    yield from _comment(text + origin.get(config.origin(name), ""))
    if name == "learning_rate":
        for rate in published_rates(config.method):
            yield from _comment(f"Published: {rate.text}.")


def _value(name: str, value: object, is_active: bool) -> str:
    text = line(name, "none" if value is None else value)
    return text if is_active else f"# {text}"


def _comment(text: str) -> list[str]:
    return [f"# {part}" for part in textwrap.wrap(flat(text), WIDTH, break_long_words=False)]
