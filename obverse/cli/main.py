"""The command line: dispatch to the command, and one line and an exit code for every error."""

from __future__ import annotations

import difflib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from types import TracebackType

from obverse import python_files
from obverse.cli.commands import COMMANDS
from obverse.distributed.env import read_rank_env
from obverse.errors import ConfigError, UserError
from obverse.redact import flat, masked
from obverse.version import __version__

INTRODUCTION = """\
obverse: post-training of language models; SFT and RL as one estimator.

  obverse demo                    a tiny model learns in minutes
  obverse methods                 every method: what it needs, how its tokens count
  obverse explain hpt             one of them in full: formula, defaults, pitfalls
  obverse train hpt --dry-run     print the options of a run; without --dry-run it trains
  obverse doctor                  report what this machine has, and what is missing

All commands: obverse --help. Options: obverse train hpt --help."""

INTERRUPTED = 130  # 128 + SIGINT, as shells count
SINGLE_PROCESS = ("eval", "compare", "analyze", "demo", "report")  # several ranks would write the same files
HELP_ALL = "--help-all"
NO_READER = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (without the program's name) and return its exit code.

    A UserError is printed on stderr and returns its exit code; with --debug its traceback is printed too. An exception
    in a user's Python file is an error of options, with the file's line. Any other exception is a bug of obverse: it is
    not handled, and Python ends with its traceback, one more line, and exit code 1.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    sys.excepthook = report_mistake
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an unprintable character must not end a run
    try:
        code = dispatch(words)
        sys.stdout.flush()
        return code
    except UserError as error:
        if debug:
            print(masked(traceback.format_exc()), file=sys.stderr, end="")
        print(complaint(error), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout again when it ends, and would print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except (Exception, SystemExit) as error:
        if not (location := python_files.error_location(error)):
            raise
        if debug:
            print(masked(traceback.format_exc()), file=sys.stderr, end="")
        print(complaint(ConfigError(f"{type(error).__name__}: {error}{location}")), file=sys.stderr)
        return ConfigError.exit_code


def dispatch(words: list[str]) -> int:
    """Run the command that the first word names; returns its exit code."""
    if not words:
        print(INTRODUCTION)
        return 0
    name, *rest = words
    if name == "--version":
        print(f"obverse {__version__}")
        return 0
    if name in ("--help", "-h", "help"):
        print(overview())
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name.lower(), COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        raise ConfigError(f"unknown command {name}: {hint}")
    if {"--help", "-h", HELP_ALL} & set(rest):
        is_full = [HELP_ALL] if HELP_ALL in rest else []
        COMMANDS[name].show_help([word for word in rest if word not in ("--help", "-h", HELP_ALL)] + is_full)
        return 0
    if name in SINGLE_PROCESS and read_rank_env().size > 1:
        raise ConfigError(f"{name} runs in one process, and WORLD_SIZE names several: only train is distributed")
    return COMMANDS[name].run(rest)


def overview() -> str:
    """All commands with what they do."""
    lines = [f"  {command.usage:<35}{command.summary}" for command in COMMANDS.values()]
    return "\n".join(
        [
            "usage: obverse COMMAND [options]",
            "",
            *lines,
            "",
            "Options of a command: obverse COMMAND --help, or --help-all for every one. Of all commands: --version,",
            "and --debug for tracebacks.",
            "Exit codes: 0 done, 1 a bug of obverse, 2 options, 3 data, 4 checkpoint, 5 diverged, 6 storage, 7 in use,",
            "8 another rank failed, 9 verifier, 10 sampling server, 11 hub, 75 stopped before its state was saved,",
            "130 and 143 stopped with a checkpoint.",
        ]
    )


def complaint(error: UserError) -> str:
    """The message for the user: one line per mistake; a report of many lines (bad rows of data) is unchanged."""
    lines = flat(error).splitlines() or [type(error).__name__]
    if isinstance(error, ConfigError) or len(lines) == 1:
        return "\n".join(f"error: {line}" for line in lines)
    return "\n".join([*lines, "error: nothing was done, because of the lines above"])


def report_mistake(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an unexpected exception, and a line on what to do."""
    print(masked("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end="")
    print(f"internal error: {kind.__name__}: {flat(error)}; run again with --debug and report it", file=sys.stderr)
