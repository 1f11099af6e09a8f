"""`obverse report`: write the page of one run, or of all runs below a folder."""

from __future__ import annotations

from obverse.cli.progress_panel import Panel
from obverse.config.commands import ReportConfig
from obverse.redact import flat
from obverse.report.write import report


def run(config: ReportConfig) -> int:
    with Panel.beside_results():
        paths = report(config)
    for path in paths:
        print(flat(path))
    return 0
