"""Configuration files of TRL and LLaMA-Factory: their keys as options of obverse, with a sentence for each.

A key is translated only where its meaning is kept. A key with another meaning is refused with what to write instead; a
key that cannot change results is named as ignored; any other unknown key stays, and is refused as an unknown option.
Keys that a file leaves out have obverse's defaults, but for those of LLaMA-Factory's adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from obverse.config.method_options import train_schema
from obverse.config.resolve import read as read_options
from obverse.config.sources import ALIASES, Layer, shortened
from obverse.errors import ConfigError
from obverse.methods import find, parameters


@dataclass(frozen=True)
class Renamed:
    """The key is `option` here; `values` are those that are written differently, by their text."""

    option: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ignored:
    """The key cannot change results."""


@dataclass(frozen=True)
class Fixed:
    """The key may only have `values` (as texts), which are what obverse does; any other is refused with the advice."""

    values: tuple[str, ...]
    advice: str


@dataclass(frozen=True)
class Refused:
    """The key means something that no option does."""

    advice: str


@dataclass
class Translation:
    """A file's keys while they are translated: `values` are options of obverse, `rest` the keys not yet read."""

    rest: dict[str, Any]
    method: str | None  # by the command line or the file
    given: Mapping[str, Any]  # options of the command line, which win over the file
    num_processes: int
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def take(self, key: str, default: Any = None) -> Any:
        """The value of a key, which counts as read; `default` where the file has none."""
        return self.rest.pop(key, default)

    def map(self, source: str, option: str, value: Any) -> None:
        """Set an option that the command line does not give, with a note on the keys that it is from."""
        if option in self.given:
            self.notes.append(f"{source}: the command line's {option} replaces it")
        else:
            self.values[option] = value
            self.notes.append(f"{source} -> {option}: {as_text(value)}")

    def refuse(self, key: str, value: Any, advice: str) -> None:
        self.problems.append(f"{key}: {shortened(value) if isinstance(value, str) else as_text(value)}: {advice}")


Rule = Renamed | Ignored | Fixed | Refused


@dataclass(frozen=True)
class Dialect:
    """The keys of a library: `signs` are those by which its files are recognized, `prepare` reads keys together."""

    name: str
    signs: frozenset[str]
    rules: Mapping[str, Rule]
    prepare: Callable[[Translation], None]


def as_text(value: Any) -> str:
    """A value as it is compared with those of a rule: `0.0`, `0` and `0e0` are `0`, None is `none`."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(as_text, value))
    number = as_number(value)
    return str(value).strip() if number is None else f"{number:.12g}"


def as_number(value: Any) -> float | None:
    """The number that a value is or spells; None for anything else."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def translated(
    file: Layer, dialects: tuple[Dialect, ...], method: str | None, given: Mapping[str, Any], num_processes: int
) -> tuple[Layer, list[str]]:
    """The file with the keys of obverse, and a note per key that was another library's; unchanged for obverse's own.

    Raises ConfigError with a line for every key with a meaning that no option has.

    Args:
        file: The options as they are in the file.
        dialects: The libraries with known keys; the first one of which the file has a sign is taken.
        method: The method named on the command line, None if the file names it.
        given: Options of the command line.
        num_processes: Processes of this run, which batch sizes per device are multiplied by.
    """
    method = method or file.values.get("method")
    keys = file.values.keys() - _options_of(method)
    dialect = next((dialect for dialect in dialects if dialect.signs & keys), None)
    if dialect is None:
        return file, []
    replaced = [key for key in file.values if ALIASES.get(key, key) in given]
    values = {key: value for key, value in file.values.items() if key not in replaced}
    read = Translation(values, method, given, num_processes)
    if replaced:
        read.notes.append(f"the command line replaces {', '.join(replaced)}")
    dialect.prepare(read)
    for key in [key for key in read.rest if key in keys]:
        if key in dialect.rules:
            _apply(dialect.rules[key], key, read.take(key), read)
    for option in (read.values.keys() & read.rest.keys()) - {"method"}:
        read.refuse(option, read.rest[option], f"is also given by another key, as {as_text(read.values[option])}")
    if read.problems:
        lines = [file.problem(text) for text in read.problems]
        raise ConfigError(
            "\n".join([*lines, *_mistakes(Layer(file.origin, {**read.rest, **read.values}), read.method)])
        )
    notes = [f"{file.origin} has keys of {dialect.name}; what it leaves out has obverse's defaults", *read.notes]
    if read.ignored:
        notes.append(f"without effect on results, ignored: {', '.join(sorted(read.ignored))}")
    return Layer(file.origin, {**read.rest, **read.values}), notes


def _mistakes(rest: Layer, method: str | None) -> list[str]:
    """A line for each key that is no option or has an invalid value, so that a report has all mistakes of a file."""
    try:
        schema = train_schema(find(method)) if method else None
    except ConfigError:  # reported where the method is read
        schema = None
    values = {key: value for key, value in rest.values.items() if key != "method"}
    if schema is None:
        return []
    hint = f"see 'obverse train {method} --help-all'"
    try:
        read_options(schema, [Layer(rest.origin, values)], hint, {"method": method})
    except ConfigError as error:  # a line without the file's name is on several options, of which one may be refused
        return [line for line in str(error).splitlines() if line.startswith(f"{rest.origin}: ")]
    return []


def _options_of(method: str | None) -> set[str]:
    """The options of a method, which are never another library's keys; empty for an unknown method."""
    try:
        return set(parameters(find(method))) if method else set()
    except ConfigError:  # reported where the method is read
        return set()


def _apply(rule: Rule, key: str, value: Any, read: Translation) -> None:
    text = as_text(value)
    if isinstance(rule, Renamed):
        read.map(f"{key}: {text}", rule.option, rule.values.get(text, value))
    elif isinstance(rule, Ignored) or (isinstance(rule, Fixed) and text in rule.values):
        read.ignored.append(key)
    else:
        read.refuse(key, value, rule.advice)
