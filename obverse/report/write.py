"""Writing the report: the page, its pictures, and the page at the end of a run."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from obverse.config.commands import ReportConfig
from obverse.errors import DataError
from obverse.report.compose import NAME, page_of
from obverse.report.load_runs import find_runs
from obverse.report.page import render
from obverse.report.pictures import save_pictures
from obverse.runtime.callbacks import Watcher
from obverse.runtime.file_writes import storage_errors, write_atomically


def report(config: ReportConfig) -> list[Path]:
    """Write the page, and with `config.figures` the pictures; returns the paths, the page first.

    Raises DataError where there is no run or one of its files is damaged, StorageError where the page cannot be
    written, ConfigError where a picture cannot be made in the requested format.
    """
    target = config.output or config.run / NAME
    try:
        page = page_of(config, find_runs(config.run), target)
        text = render(page)
    except OSError as error:
        raise DataError(f"{error.filename or config.run} cannot be read: {error.strerror}") from None
    paths = [write(target, text)]
    if config.figures is not None:
        figures = [*page.curves, *(figure for section in page.sections for figure in section.figures)]
        paths += save_pictures(figures, page.axis, config.figures, config.format)
    return paths


def report_after_run(folder: Path, watcher: Watcher) -> None:
    """Write the page of a run that has ended. An error is a note to the watcher: it does not make the run fail."""
    try:
        watcher.note(f"report: {report(ReportConfig(run=folder))[0]}")
    except Exception as error:  # noqa: BLE001 - a mistake in a page must not make a run a failure
        cause = f"{type(error).__name__}: {error}"
        watcher.note(f"no report was written ({cause}); the run is complete: try 'obverse report {quote(str(folder))}'")


def write(target: Path, text: str) -> Path:
    """Write the page atomically: a reader sees the previous page or the new one."""
    with storage_errors(target, "choose --output"):
        return write_atomically(target, text.encode("utf-8", "backslashreplace"))
