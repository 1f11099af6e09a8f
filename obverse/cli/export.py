"""`obverse export`: a checkpoint as one model folder with a card, and its upload to the hub."""

from __future__ import annotations

from obverse.api.export import export
from obverse.cli.progress_panel import Panel
from obverse.config.commands import ExportConfig
from obverse.hub.push import push


def run(config: ExportConfig) -> int:
    with Panel() as watcher:
        out = export(config, watcher)
        if config.push_to_hub is not None:
            push(out, config.push_to_hub, config.hub_private_repo, watcher)
    return 0
