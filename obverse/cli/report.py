"""`obverse report`: write the page of one run, or of all runs below a folder."""

from __future__ import annotations

from obverse.config.commands import ReportConfig
from obverse.redact import flat
from obverse.report.write import report


def run(config: ReportConfig) -> int:
    for path in report(config):
        print(flat(path))
    return 0
