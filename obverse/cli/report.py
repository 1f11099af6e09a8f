"""`obverse report`: write the page of one run, or of all runs below a folder."""

from __future__ import annotations

from obverse.cli.commands import load
from obverse.cli.progress_panel import Panel
from obverse.config.commands import ReportConfig
from obverse.redact import flat


def run(config: ReportConfig) -> int:
    with Panel.beside_results() as watcher:
        watcher.phase("load", 0, 0)  # importing torch takes seconds
        paths = load("obverse.report.write:report")(config)
    for path in paths:
        print(flat(path))
    return 0
