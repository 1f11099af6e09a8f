"""The console that results are printed on."""

from __future__ import annotations

from rich.console import Console

PIPED_WIDTH = 100  # columns of a file or pipe


def results_console() -> Console:
    """The console on stdout: as wide as the terminal, PIPED_WIDTH columns in a file or pipe."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPED_WIDTH)
