"""`obverse export`: a checkpoint as one model folder with a card, and its upload to the hub."""

from __future__ import annotations

from obverse.cli.commands import load
from obverse.cli.progress_panel import Panel
from obverse.config.commands import ExportConfig


def run(config: ExportConfig) -> int:
    with Panel() as watcher:
        watcher.phase("load", 0, 0)  # importing torch takes seconds
        out = load("obverse.api.export:export")(config, watcher)
        if config.push_to_hub is not None:
            load("obverse.hub.push:push")(out, config.push_to_hub, config.hub_private_repo, watcher)
    return 0
