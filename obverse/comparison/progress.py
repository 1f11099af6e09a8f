"""One progress view over all trials of a comparison, read from their folders: whoever runs them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from obverse.comparison.plan import Plan, Trial
from obverse.comparison.run_trial import Result, result

TAIL = 4096  # bytes of metrics.jsonl that hold its last row


class Board:
    """A live table where there is a terminal; elsewhere a line whenever a trial is over."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self.plan, self.console = plan, console
        self.trials = plan.trials()
        self.results: dict[Trial, Result] = {}
        self._find()
        self.num_before = len(self.results)
        self.began = time.monotonic()
        if self.results:
            console.print(f"{len(self.results)} of {len(self.trials)} runs are there already", soft_wrap=True)
        self.live: Live | None = None
        if console.is_terminal:
            self.live = Live(get_renderable=self._render, console=console, refresh_per_second=1, transient=True)
            self.live.start()

    def update(self) -> None:
        """Look for trials that are over by now, and say so."""
        for trial in self._find():
            self.console.print(Text(self.line(trial)), soft_wrap=True)

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def line(self, trial: Trial) -> str:
        """`12/84 grpo rate 0.0001: 41.2% on validation (40 steps, 400,213 tokens, 38 s), left 0:21:30`."""
        found = self.results[trial]
        what = f"rate {trial.rate:g}" if trial.is_grid else f"seed {trial.seed}"
        spent = f"{found.steps:,} steps, {found.num_tokens:,} tokens, {found.seconds:.0f} s"
        score = found.failed or f"{found.score:.1%} on validation ({spent})"
        return f"{len(self.results)}/{len(self.trials)} {trial.entry.label} {what}: {score}, left {self.left()}"

    def left(self) -> str:
        """Hours, minutes and seconds until all are over, at the pace since this call."""
        done = len(self.results) - self.num_before
        seconds = (time.monotonic() - self.began) / done * (len(self.trials) - len(self.results)) if done else 0.0
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if done else "unknown"

    def _find(self) -> list[Trial]:
        """Trials that have come to an end since the last look."""
        new = []
        for trial in self.trials:
            if trial not in self.results and (found := result(self.plan, trial)) is not None:
                self.results[trial] = found
                new.append(trial)
        return new

    def _render(self) -> RenderableType:
        table = Table(title=f"{len(self.results)} of {len(self.trials)} runs, left {self.left()}", title_justify="left")
        for column in ("method", "grid", "seeds", "now"):
            table.add_column(column)
        for entry in self.plan.entries:
            mine = [trial for trial in self.trials if trial.entry == entry]
            counts = [
                f"{sum(trial in self.results for trial in part)}/{len(part)}" if part else ""
                for part in ([t for t in mine if t.is_grid], [t for t in mine if not t.is_grid])
            ]
            now = [text for trial in mine if trial not in self.results and (text := self._now(trial))]
            table.add_row(entry.label, *counts, "; ".join(now[:2]))
        return table

    def _now(self, trial: Trial) -> str:
        """Where a run that has begun stands."""
        row = last_row(self.plan.root / trial.folder / "metrics.jsonl")
        if row is None:
            return ""
        spent = {"tokens": "num_tokens", "steps": "step", "flops": "flops"}.get(self.plan.config.budget_in)
        amount = row.get(spent) if spent else None
        share = f"{amount / self.plan.config.budget:.0%}" if isinstance(amount, int | float) else ""
        return f"step {row.get('step', '?')} {share}".strip()


def last_row(path: Path) -> dict[str, float] | None:
    """The last whole row of a metrics file; None where there is none to show: what is wrong there its reader says."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            lines = file.read().split(b"\n")[:-1]
        row = json.loads(lines[-1]) if lines else None
    except (OSError, ValueError):
        return None
    return row if isinstance(row, dict) else None
