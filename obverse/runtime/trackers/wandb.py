"""Weights & Biases, with its own settings: WANDB_MODE=offline, WANDB_PROJECT, WANDB_ENTITY and the like apply."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import ClassVar

import wandb

from obverse.errors import ConfigError
from obverse.runtime.trackers.tracker import COLUMNS, DEFAULT_PROJECT, Completion, TrackedRun

# Settings of wandb that older versions lack.
SETTINGS = {
    "init_timeout": 30.0,  # seconds to wait for the server at the start
    "finish_timeout": 30.0,  # seconds to wait for uploads at the end of a run; `wandb sync` uploads the rest later
    "x_transaction_log_flush_interval": 0.2,  # seconds between writes to the file, of which a kill loses the last ones
}


class WandbTracker:
    """Logs to wandb. Figures are drawn over `num_tokens` by default, and over `Step` where that is chosen."""

    discards_later_steps: ClassVar[bool] = False
    writes_steps_late: ClassVar[bool] = True

    @staticmethod
    def check() -> None:
        """Raise ConfigError if neither an account is configured nor the mode offline, in which none is needed."""
        if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False, verify=False):
            raise ConfigError(
                "--report_to wandb: no API key is configured: run 'wandb login', or set WANDB_MODE=offline and upload "
                "the run later by 'wandb sync'"
            )

    def open(self, run: TrackedRun) -> str:
        supported = {name: value for name, value in SETTINGS.items() if name in wandb.Settings.model_fields}
        settings = wandb.Settings(silent=True, console="off", **supported)  # the console is not captured
        self.run = wandb.init(
            project=run.project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
            id=run.id,
            name=run.name,
            group=run.group or None,
            config=dict(run.config),
            dir=os.environ.get("WANDB_DIR") or str(run.folder),
            resume="allow",
            settings=settings,
        )
        self.run.define_metric("num_tokens")
        self.run.define_metric("*", step_metric="num_tokens")
        if self.run.offline:
            return f"offline, upload it by: wandb sync {self.run.settings.sync_dir}"
        return str(self.run.url or f"nothing is written (WANDB_MODE={self.run.settings.mode})")

    def log_figures(self, step: int, num_tokens: int, figures: Mapping[str, float]) -> None:
        self.run.log({**figures, "num_tokens": num_tokens}, step=step)

    def log_completions(self, step: int, completions: Sequence[Completion]) -> None:
        rows = [list(astuple(completion)) for completion in completions]
        self.run.log({"completions": wandb.Table(columns=list(COLUMNS), data=rows)}, step=step)

    def close(self, exit_code: int) -> None:
        self.run.finish(exit_code=exit_code)
