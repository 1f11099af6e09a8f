"""What the commands share: how options and methods are read from the words."""

from __future__ import annotations

from typing import Any, TypeVar

from obverse.cli.commands import COMMANDS, Words
from obverse.cli.parser import print_help, scan
from obverse.config.fields import Options
from obverse.config.method_options import method_schema
from obverse.config.resolve import method_options, read
from obverse.config.sources import COMMAND_LINE, Layer
from obverse.errors import ConfigError
from obverse.methods import find

AnyOptions = TypeVar("AnyOptions", bound=Options)


def parse_options(schema: type[AnyOptions], words: Words, command: str, *positional: str) -> AnyOptions:
    """The options of a command without a method; words without a name are the options `positional`, in this order."""
    scanned = scan(words, schema)
    for name, word in zip(positional, scanned.take(len(positional)), strict=False):
        if name in scanned.given:
            scanned.problems.append(f"--{name}: given twice, once as {word}")
        scanned.given[name] = word
    missing = [name for name in positional if schema.model_fields[name].is_required() and name not in scanned.given]
    if missing and not scanned.problems:
        raise ConfigError(f"{command}: expects obverse {COMMANDS[command.split()[0]].usage}")
    return scanned.check(lambda: read(schema, [Layer(COMMAND_LINE, scanned.given)], f"see 'obverse {command} --help'"))


def method_words(words: Words, command: str, number: int) -> tuple[str, dict[str, Any], list[str]]:
    """Read `number` words, the first of them a method: its name, what its function is called with, the other words."""
    positional = scan(words, Options).positional
    if len(positional) < number:
        raise ConfigError(f"{command}: expects obverse {COMMANDS[command].usage}")
    method = positional[0]
    make = find(method)
    scanned = scan(words, method_schema(make))
    scanned.take(number)
    return method, scanned.check(lambda: method_options(method, make, scanned.given)), scanned.positional[1:number]


def show_method_help(words: Words, command: str) -> None:
    """Print the help of a command that takes a method's options."""
    positional = scan(words, Options).positional
    schema = method_schema(find(positional[0])) if positional else Options
    notes = [] if positional else [f"A method's options: obverse {command} hpt --help"]
    print_help(f"obverse {COMMANDS[command].usage}", COMMANDS[command].summary, schema, notes)


def take_flag(words: Words, name: str) -> bool:
    """Whether a flag is among the words; it is removed from them."""
    flags = [word for word in words if word.replace("-", "_") == f"__{name}"]
    for word in flags:
        words.remove(word)
    return bool(flags)
