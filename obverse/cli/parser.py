"""The command line's words: which are options with which values, and the help that lists them.

What a value means is not decided here: it stays text and is validated with the configuration file's, by one schema.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from obverse.config.fields import Options
from obverse.config.sources import ALIASES, is_option, kinds
from obverse.errors import ConfigError

TRUTH = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False, "1": True, "0": False}
HELP_WIDTH = 100

Made = TypeVar("Made")


@dataclass
class Scanned:
    """A command's words: what stands alone, what was given by name, and a sentence per word that makes no sense."""

    positional: list[str] = field(default_factory=list)
    given: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)  # how each option by name was written
    notes: list[str] = field(default_factory=list)  # on words that were replaced by later ones

    def give(self, name: str, value: Any, written: str) -> None:
        """Take an option as it was written; one that is there already is replaced, with a note."""
        if name in self.written:
            before = "" if self.written[name] == written else f", before as {self.written[name]}"
            self.notes.append(f"{written}: given twice{before}: the last one counts")
        self.given[name] = value
        self.written[name] = written

    def take(self, number: int) -> list[str]:
        """The first `number` words that stand alone; any more are a problem."""
        for word in self.positional[number:]:
            self.problems.append(f"unexpected {word!r}: options begin with --")
        return self.positional[:number]

    def check(self, read: Callable[[], Made]) -> Made:
        """What `read` makes of the options; ConfigError with its problems and those of the words together."""
        try:
            made = read()
        except ConfigError as error:
            raise ConfigError("\n".join([*self.problems, str(error)])) from error
        if self.problems:
            raise ConfigError("\n".join(self.problems))
        for note in self.notes:
            print(f"note: {note}", file=sys.stderr)
        return made


def scan(words: Sequence[str], made: type[Options], others: Sequence[str] = ()) -> Scanned:
    """Sort a command's words by the options of `made`; `others` are options with a value that `made` lacks.

    `--x=y` and `--x y` are the same, as are dashes and underscores within a name. A flag may stand alone, be denied
    (`--no-flag`), or be followed by true or false. An unknown option takes the next word, if it is no option. The last
    value counts where an option is given twice, by whatever name, and a note says so.

    Example:
        scan(["hpt", "--gate=1", "--no-log-completions"], schema(hpt)).given == {"gate": "1", "log_completions": False}
    """
    scanned, rest = Scanned(), list(words)
    while rest:
        word = rest.pop(0)
        if not _is_option_word(word):
            scanned.positional.append(word)
            continue
        written, equals, value = word.partition("=")
        name = written.lstrip("-").replace("-", "_")
        name = ALIASES.get(name, name) if not is_option(made, name) and is_option(made, ALIASES.get(name, "")) else name
        if equals:
            scanned.give(name, value, written)
        elif _is_flag(made, name):
            scanned.give(name, TRUTH[rest.pop(0).lower()] if rest and rest[0].lower() in TRUTH else True, written)
        elif name.startswith("no_") and _is_flag(made, name[3:]):
            scanned.give(name[3:], False, written)
        elif rest and not _is_option_word(rest[0]):
            scanned.give(name, rest.pop(0), written)
        elif is_option(made, name) or name in others:
            scanned.problems.append(f"{written}: needs a value")
        else:
            scanned.give(name, True, written)
    return scanned


def _is_option_word(word: str) -> bool:
    """`--x`, `-x` and `--x=TEXT`, but not a negative number, a dash or a text with spaces such as "-be brief"."""
    return re.fullmatch(r"--?[A-Za-z][^\s=]*(=.*)?", word, re.DOTALL) is not None


def _is_flag(made: type[Options], name: str) -> bool:
    return is_option(made, name) and bool in set(kinds(made, name))


def print_help(
    usage: str, summary: str, made: type[Options], notes: Sequence[str], defaults: Mapping[str, str] | None = None
) -> None:
    """A command's options by group, with defaults and units; `defaults` shows better ones than the schema's."""
    console = Console(highlight=False)
    console.width = min(console.width, HELP_WIDTH) if console.is_terminal else HELP_WIDTH
    console.print(Text(f"usage: {usage}\n\n{summary}"))
    for group, names in made.groups().items():
        console.print(_group(group, names, made, defaults or {}))
    for note in notes:
        console.print(Text(f"\n{note}"))


def _group(title: str, names: Sequence[str], made: type[Options], defaults: Mapping[str, str]) -> RenderableType:
    table = Table.grid(padding=(0, 2), pad_edge=False)
    table.add_column(width=32, no_wrap=True)
    table.add_column()
    for name in names:
        option = made.model_fields[name]
        default = "required" if option.is_required() else defaults.get(name, default_text(option.default))
        about = Text(f"{option.description}{choices(made, name)}").append(f" [{default}]", style="cyan")
        label = Text(f"  --{name}", style="bold").append(f" {metavar(made, name)}", style="dim")
        table.add_row(label, about)
    return Group(Text(f"\n{title}", style="bold"), table)


def default_text(value: Any) -> str:
    """A default as one would type it."""
    if isinstance(value, tuple):
        return ",".join(map(default_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def choices(made: type[Options], name: str) -> str:
    """The words an option may be, if they are few and fixed."""
    words = [kind for kind in kinds(made, name) if isinstance(kind, str)]
    return f" ({', '.join(words)})" if words else ""


def metavar(made: type[Options], name: str) -> str:
    """What stands for an option's value in the help."""
    names = {int: "INT", float: "NUM", str: "TEXT", Path: "PATH"}
    found = [names[kind] for kind in kinds(made, name) if isinstance(kind, type) and kind in names]
    return found[0] if found else "" if _is_flag(made, name) else "NAME"
