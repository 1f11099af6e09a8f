"""Configuration files: YAML that is read strictly, and written so that reading it gives the same configuration."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import yaml

from obverse.config.fields import Options
from obverse.config.sources import Layer, is_option
from obverse.config.train import TrainConfig
from obverse.errors import ConfigError

MAX_BYTES = 2**20  # of a file: options are a few lines


class _Loader(yaml.SafeLoader):
    """Plain values only: repeated keys, tags and aliases (by which a small file can expand to a large one) are refused.

    A plain scalar is null, true, false, a number written as Python prints it, or else text. So `010`, `1:30`, `yes`,
    `1e-5` or a date has the same meaning as on the command line.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        kind = "an alias (*name)" if isinstance(event, yaml.AliasEvent) else ""
        if kind or getattr(event, "tag", None) is not None:
            line = f"{event.start_mark.name}:{event.start_mark.line + 1}"
            raise ConfigError(f"{line}: {kind or 'a tag (!name)'} is not read: write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{key.start_mark.name}:{key.start_mark.line + 1}: an option's name is a word")
            if key.value in seen:
                raise ConfigError(f"{key.start_mark.name}:{key.start_mark.line + 1}: {key.value} is given twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float | str:
    """A number if Python prints it as the same text, else the text."""
    text = str(node.value)
    value = float(text) if "." in text else int(text)
    return value if repr(value) == text else text


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), [*"tTfF"])
_Loader.add_implicit_resolver("!number", re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?$", re.ASCII), [*"-0123456789"])
_Loader.add_constructor("!number", _number)


def read(path: str | Path) -> Layer:
    """Read the options of a YAML file; ConfigError names the line that cannot be read.

    Example (train.yaml):
        method: hpt
        learning_rate: 2e-5
        gate: 1
    """
    try:
        with Path(path).expanduser().open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode("utf-8")
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        raise ConfigError(f"--config: cannot read {path}: {getattr(error, 'strerror', error)}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--config: {path} is not a text in UTF-8") from None
    if len(text) > MAX_BYTES:
        raise ConfigError(f"--config: {path} is longer than {MAX_BYTES // 2**20} MB, which no list of options is")
    return parse(text, str(path))


def parse(text: str, path: str) -> Layer:
    """The options in the text of a YAML file; `path` is its name in messages. ConfigError as of `read`."""
    try:
        loader = _Loader(text)
        loader.name = path
        values = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {str(error).splitlines()[0]}") from None
    except ValueError as error:  # an invalid date, a number with thousands of digits
        raise ConfigError(f"{path}: not YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply for a list of options") from None
    if values is None:
        return Layer(path, {})
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path}: expects lines such as 'learning_rate: 1e-5', one per option")
    return Layer(path, values)


def write(config: Options, origins: bool = False) -> str:
    """The configuration as YAML, by group; with `origins` a comment names the source of each value but defaults.

    Example:
        write(resolve("hpt", hpt), origins=True)     # ... learning_rate: 5.0e-06  # paper
    """
    return "\n".join(_lines(config, origins)) + "\n"


def _lines(config: Options, origins: bool) -> Iterator[str]:
    values = config.model_dump(mode="json")
    method = values.pop("method_options", {})
    groups = config.groups()
    if isinstance(config, TrainConfig):
        yield line("method", config.method)
        flat = [name for name in method if not is_option(type(config), name)]  # of a config made without train_schema()
        groups = {"method": [*groups.pop("method", []), *flat], **groups}
    for group, names in groups.items():
        if names:
            yield f"# {group}"
        for name in names:
            text = line(name, method[name] if name in method else values[name])
            origin = config.origin(name)
            yield f"{text}  # {origin}" if origins and origin != "default" and "\n" not in text else text


def line(name: str, value: Any) -> str:
    """An option as a line of YAML, without its end; a value of several lines is quoted."""
    text: str = yaml.safe_dump({name: value}, allow_unicode=True, default_flow_style=False, width=float("inf"))
    return text.rstrip("\n")
