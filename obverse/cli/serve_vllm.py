"""`obverse serve-vllm`: start a vLLM server with the endpoints that a run needs."""

from __future__ import annotations

from obverse.cli.command import parse_options, take_flag
from obverse.cli.commands import COMMANDS, Words, load
from obverse.cli.parser import print_help
from obverse.config.commands import ServeConfig


def run(words: Words) -> int:
    dry_run = take_flag(words, "dry_run")
    config = parse_options(ServeConfig, words, "serve-vllm", "model")
    return int(load("obverse.inference.serve_vllm:serve")(config, dry_run))


def show_help(words: Words) -> None:
    command = COMMANDS["serve-vllm"]
    notes = [
        "It becomes 'vllm serve'; --dry-run prints that command instead.",
        "A run that samples from it: --sampler vllm --vllm_url URL.",
    ]
    print_help(f"obverse {command.usage}", command.summary, ServeConfig, notes)
