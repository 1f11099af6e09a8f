"""`obverse compare`: train by several methods at one budget, and rank them."""

from __future__ import annotations

from pathlib import Path

from obverse.api.compare import SEE_HELP, run_and_report
from obverse.cli.commands import COMMANDS, Words, load
from obverse.cli.parser import print_help, scan
from obverse.cli.results_console import results_console
from obverse.comparison.plan import make_plan
from obverse.config.compare import CompareConfig
from obverse.config.resolve import read
from obverse.config.sources import COMMAND_LINE, Layer
from obverse.config.yaml_file import read as read_config
from obverse.python_files import read_once


@read_once()
def run(words: Words) -> int:
    """`obverse compare METHOD... [--config FILE.yaml] [options]`."""
    scanned = scan(words, CompareConfig, ("config",))
    file = scanned.given.pop("config", None)
    stored = Path(scanned.given.get("output_dir", ""), "comparison.yaml").expanduser()
    if file is None and not scanned.positional and stored.is_file():
        load("obverse.comparison.plan:check_config")(stored.parent)
        file = stored  # the comparison continues with its original options
    methods = {"methods": tuple(scanned.positional)} if scanned.positional else {}
    layers = [Layer(COMMAND_LINE, {**methods, **scanned.given}), *([read_config(file)] if file else [])]
    config = scanned.check(lambda: read(CompareConfig, layers, SEE_HELP))
    plan = make_plan(config)
    with load("obverse.cli.progress_panel:Panel")() as watcher:
        watcher.phase("load", 0, 0)  # importing torch takes seconds
        load("obverse.comparison.run:compare")
        watcher.phase("load", 1, 1)
    with load("obverse.cli.progress_panel:Panel")() as watcher:  # the table of the runs is a display of its own
        return run_and_report(plan, results_console(), watcher).exit_code


def show_help(words: Words) -> None:
    command = COMMANDS["compare"]
    notes = [
        "A method may have options of its own after commas: hpt,gate=1. Options of training hold for every run. "
        "obverse compare --output_dir FOLDER continues a comparison; so does the same call again."
    ]
    print_help(f"obverse {command.usage}", command.summary, CompareConfig, notes, is_full="--help-all" in words)
