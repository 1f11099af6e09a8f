"""What every command of the command line is made with: its words, its options, where its results go."""

from __future__ import annotations

import importlib
from typing import Any, TypeVar

from rich.console import Console

from obverse.cli.parser import scan
from obverse.config.fields import Options
from obverse.config.resolve import read
from obverse.config.sources import COMMAND_LINE, Layer

AnyOptions = TypeVar("AnyOptions", bound=Options)
Words = list[str]

PIPED_WIDTH = 100


def console() -> Console:
    """Where results go: the terminal as wide as it is, a file or pipe PIPED_WIDTH columns wide."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=PIPED_WIDTH)


def load(target: str) -> Any:
    """The object `module:name`, imported now: torch behind it costs seconds that only some commands should pay."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def options_of(made: type[AnyOptions], words: Words, command: str, *alone: str) -> AnyOptions:
    """The options of a command without a method; words that stand alone are the options `alone`, in their order."""
    scanned = scan(words, made)
    for name, word in zip(alone, scanned.take(len(alone)), strict=False):
        if name in scanned.given:
            scanned.problems.append(f"--{name}: given twice, once as {word}")
        scanned.given[name] = word
    return scanned.check(lambda: read(made, [Layer(COMMAND_LINE, scanned.given)], f"see 'obverse {command} --help'"))


def take_flag(words: Words, name: str) -> bool:
    """Whether a flag stands among the words, which lose it."""
    found = [word for word in words if word.replace("-", "_") == f"__{name}"]
    for word in found:
        words.remove(word)
    return bool(found)
