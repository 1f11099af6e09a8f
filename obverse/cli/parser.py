"""The words of a command line as options and positional words, and the help that lists the options.

Values stay text: the schema validates them, together with those of a configuration file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from obverse.config.fields import Options
from obverse.config.sources import is_option, kinds, option_name
from obverse.errors import ConfigError

TRUTH = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False, "1": True, "0": False}
HELP_WIDTH = 100

Result = TypeVar("Result")


@dataclass
class Scanned:
    """A command's words: positional ones, options by name, and a sentence per word that cannot be read."""

    positional: list[str] = field(default_factory=list)
    given: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    spelled: dict[str, str] = field(default_factory=dict)  # by option: the word that gave it
    notes: list[str] = field(default_factory=list)  # on options that a later word replaced

    def give(self, name: str, value: Any, word: str) -> None:
        """Store an option; a later value replaces an earlier one, with a note."""
        if name in self.spelled:
            before = "" if self.spelled[name] == word else f", before as {self.spelled[name]}"
            self.notes.append(f"{word}: given twice{before}: the last one counts")
        self.given[name] = value
        self.spelled[name] = word

    def take(self, number: int) -> list[str]:
        """The first `number` positional words; any more are a problem."""
        for word in self.positional[number:]:
            self.problems.append(f"unexpected {word!r}: options begin with --")
        return self.positional[:number]

    def check(self, read: Callable[[], Result]) -> Result:
        """The result of `read`, which validates the options; ConfigError with its problems and those of the words."""
        try:
            result = read()
        except ConfigError as error:
            raise ConfigError("\n".join([*self.problems, str(error)])) from error
        if self.problems:
            raise ConfigError("\n".join(self.problems))
        for note in self.notes:
            print(f"note: {note}", file=sys.stderr)
        return result


def scan(words: Sequence[str], schema: type[Options], extra: Sequence[str] = ()) -> Scanned:
    """Sort a command's words into options of the schema and positional words.

    `extra` are options with a value that the schema does not have. `--x=y` and `--x y` are the same, as are dashes and
    underscores within a name. A flag is `--flag`, `--no-flag`, or `--flag` followed by true or false. An unknown option
    takes the next word unless that is an option. Of an option given twice, also by an alias, the last value holds, with
    a note.

    Example:
        scan(["hpt", "--gate=1", "--no-report"], train_schema(hpt)).given == {"gate": "1", "report": False}
    """
    scanned, rest = Scanned(), list(words)
    while rest:
        word = rest.pop(0)
        if not _is_option_word(word):
            scanned.positional.append(word)
            continue
        spelled, equals, value = word.partition("=")
        name = spelled.lstrip("-").replace("-", "_")
        if is_option(schema, option_name(schema, name)):
            name = option_name(schema, name)
        if equals:
            scanned.give(name, value, spelled)
        elif _is_flag(schema, name):
            scanned.give(name, TRUTH[rest.pop(0).lower()] if rest and rest[0].lower() in TRUTH else True, spelled)
        elif name.startswith("no_") and _is_flag(schema, name[3:]):
            scanned.give(name[3:], False, spelled)
        elif rest and not _is_option_word(rest[0]):
            scanned.give(name, rest.pop(0), spelled)
        elif is_option(schema, name) or name in extra:
            scanned.problems.append(f"{spelled}: needs a value")
        else:
            scanned.give(name, True, spelled)
    return scanned


def _is_option_word(word: str) -> bool:
    """`--x`, `-x` and `--x=TEXT`, but not a negative number, a dash or a text with spaces such as "-be brief"."""
    return re.fullmatch(r"--?[A-Za-z][^\s=]*(=.*)?", word, re.DOTALL) is not None


def _is_flag(schema: type[Options], name: str) -> bool:
    return is_option(schema, name) and bool in set(kinds(schema, name))


def print_help(
    usage: str,
    summary: str,
    schema: type[Options],
    notes: Sequence[str],
    defaults: Mapping[str, str] | None = None,
    is_full: bool = False,
) -> None:
    """Print a command's options by group, with defaults and units; `defaults` replaces those of the schema.

    Unless `is_full`, only the schema's essential options are listed, and a line names the option that lists all.
    """
    console = Console(highlight=False)
    console.width = min(console.width, HELP_WIDTH) if console.is_terminal else HELP_WIDTH
    console.print(Text(f"usage: {usage}\n\n{summary}"))
    groups = schema.groups() if is_full else schema.essential_groups()
    for group, names in groups.items():
        console.print(_group(group, names, schema, defaults or {}))
    num_hidden = sum(map(len, schema.groups().values())) - sum(map(len, groups.values()))
    if num_hidden:
        command = " ".join(takewhile(lambda word: not (word.startswith("[") or word.isupper()), usage.split()))
        console.print(Text(f"\n{num_hidden} more options: {command} --help-all", style="bold"))
    for note in notes:
        console.print(Text(f"\n{note}"))


def _group(title: str, names: Sequence[str], schema: type[Options], defaults: Mapping[str, str]) -> RenderableType:
    table = Table.grid(padding=(0, 2), pad_edge=False)
    table.add_column(width=32, no_wrap=True)
    table.add_column()
    for name in names:
        option = schema.model_fields[name]
        default = "required" if option.is_required() else defaults.get(name, default_text(option.default))
        about = Text(f"{option.description}{choices(schema, name)}").append(f" [{default}]", style="cyan")
        label = Text(f"  --{name}", style="bold").append(f" {metavar(schema, name)}", style="dim")
        table.add_row(label, about)
    return Group(Text(f"\n{title}", style="bold"), table)


def default_text(value: Any) -> str:
    """A default value as it is typed on the command line."""
    if isinstance(value, tuple):
        return ",".join(map(default_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def choices(schema: type[Options], name: str) -> str:
    """The values of an option that accepts a fixed set of words, in parentheses; empty for other options."""
    words = [kind for kind in kinds(schema, name) if isinstance(kind, str)]
    return f" ({', '.join(words)})" if words else ""


def metavar(schema: type[Options], name: str) -> str:
    """The placeholder of an option's value in the help; empty for a flag."""
    names = {int: "INT", float: "NUM", str: "TEXT", Path: "PATH"}
    placeholders = [names[kind] for kind in kinds(schema, name) if isinstance(kind, type) and kind in names]
    if {"INT", "NUM"} <= set(placeholders):
        return "NUM"
    return placeholders[0] if placeholders else "" if _is_flag(schema, name) else "NAME"
