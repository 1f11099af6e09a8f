"""trackio: a local database, shown by `trackio show`; no account is needed.

Its environment variables apply: TRACKIO_DIR is the database's folder, TRACKIO_SPACE_ID sends the figures to a Space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import ClassVar

import trackio

from obverse.runtime.trackers.muted import muted
from obverse.runtime.trackers.tracker import DEFAULT_PROJECT, Completion, TrackedRun

ID_LENGTH = 6  # characters of the run's id in its name, by which trackio identifies runs


class TrackioTracker:
    """Logs to trackio. Its dashboard draws the figures over steps, or over `num_tokens`."""

    discards_later_steps: ClassVar[bool] = False
    writes_steps_late: ClassVar[bool] = False

    def open(self, run: TrackedRun) -> str:
        project = run.project or DEFAULT_PROJECT
        with muted():
            self.run = trackio.init(
                project=project,
                name=f"{run.name}-{run.id[:ID_LENGTH]}",
                group=run.group or None,
                config=dict(run.config),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        return f"trackio show --project {project}"

    def log_figures(self, step: int, num_tokens: int, figures: Mapping[str, float]) -> None:
        self.run.log({**figures, "num_tokens": num_tokens}, step=step)

    def log_completions(self, step: int, completions: Sequence[Completion]) -> None:
        rows = trackio.Table(data=[asdict(completion) for completion in completions])
        self.run.log({"completions": rows}, step=step)

    def close(self, exit_code: int) -> None:
        with muted():
            self.run.finish()
