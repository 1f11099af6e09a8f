"""`obverse methods`: the table of all methods, for people, for programs, or as pages."""

from __future__ import annotations

from obverse.cli.command import parse_options, take_flag
from obverse.cli.commands import COMMANDS, Words
from obverse.cli.explain import methods_table
from obverse.cli.method_pages import write
from obverse.cli.method_table import entries, markdown_table, to_json
from obverse.cli.parser import print_help
from obverse.cli.results_console import results_console
from obverse.config.commands import MethodsConfig
from obverse.redact import flat


def run(words: Words) -> int:
    as_json, as_markdown = take_flag(words, "json"), take_flag(words, "markdown")
    config = parse_options(MethodsConfig, words, "methods")
    if config.pages is not None:
        print(f"{write(config.pages, entries())} pages in {flat(config.pages)}")
    elif as_json or as_markdown:
        print(to_json(entries()) if as_json else markdown_table(entries()))
    else:
        results_console().print(methods_table(entries()))
    return 0


def show_help(words: Words) -> None:
    command = COMMANDS["methods"]
    notes = ["--json: the same for programs; --markdown: for a page."]
    print_help(f"obverse {command.usage}", command.summary, MethodsConfig, notes)
