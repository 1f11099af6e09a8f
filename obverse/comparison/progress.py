"""The progress of all trials of a comparison, read from their folders, whichever process runs them."""

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


class Progress:
    """A live table on a terminal; otherwise a line for each finished trial."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self.plan, self.console = plan, console
        self.trials = plan.trials()
        self.results: dict[Trial, Result] = {}
        self._read_results()
        self.done_before = self._total_done()
        self.started = time.monotonic()
        if self.results:
            console.print(f"{len(self.results)} of {len(self.trials)} runs are done already", soft_wrap=True)
        self.live: Live | None = None
        if console.is_terminal:
            self.live = Live(get_renderable=self._render, console=console, refresh_per_second=1, transient=True)
            self.live.start()

    def update(self) -> None:
        """Print a line for each trial that finished since the last call."""
        for trial in self._read_results():
            self.console.print(Text(self.line(trial)), soft_wrap=True)

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def line(self, trial: Trial) -> str:
        """`12/84 grpo rate 0.0001: 41.2% on validation (40 steps, 400,213 tokens, 38 s), left 0:21:30`."""
        outcome = self.results[trial]
        label = f"rate {trial.rate:g}" if trial.is_grid else f"seed {trial.seed}"
        spent = f"{outcome.steps:,} steps, {outcome.num_tokens:,} tokens, {outcome.seconds:.0f} s"
        text = outcome.failed or f"{outcome.score:.1%} on validation ({spent})"
        return (
            f"{len(self.results)}/{len(self.trials)} {trial.entry.label} {label}: {text}, left {self.remaining_time()}"
        )

    def remaining_time(self) -> str:
        """Estimated time until all trials are done, `h:mm:ss`, at the rate since this object was created.

        A running trial counts by the share of its budget, so that the time is known before the first one is done.
        """
        total_done = self._total_done()
        done = max(total_done - self.done_before, 0.0)
        seconds = (time.monotonic() - self.started) / done * (len(self.trials) - total_done) if done else 0.0
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if done else "unknown"

    def _total_done(self) -> float:
        """The number of finished trials, and of others the share that is done."""
        shares = (self._share(trial) or 0.0 for trial in self.trials if trial not in self.results)
        return len(self.results) + sum(min(share, 1.0) for share in shares)

    def _read_results(self) -> list[Trial]:
        """Read the results of trials that finished since the last call, and return these trials."""
        new = []
        for trial in self.trials:
            if trial not in self.results and (outcome := result(self.plan, trial)) is not None:
                self.results[trial] = outcome
                new.append(trial)
        return new

    def _render(self) -> RenderableType:
        table = Table(
            title=f"{len(self.results)} of {len(self.trials)} runs, left {self.remaining_time()}", title_justify="left"
        )
        for column in ("method", "grid", "seeds", "now"):
            table.add_column(column)
        for entry in self.plan.entries:
            trials = [trial for trial in self.trials if trial.entry == entry]
            counts = [
                f"{sum(trial in self.results for trial in part)}/{len(part)}" if part else ""
                for part in ([t for t in trials if t.is_grid], [t for t in trials if not t.is_grid])
            ]
            running = [text for trial in trials if trial not in self.results and (text := self._state(trial))]
            table.add_row(entry.label, *counts, "; ".join(running[:2]))
        return table

    def _state(self, trial: Trial) -> str:
        """The step of a running trial and the share of its budget; "" before its first step."""
        row = last_row(self.plan.root / trial.folder / "metrics.jsonl")
        if row is None:
            return ""
        share = self._share(trial)
        return f"step {row.get('step', '?')} {'' if share is None else f'{share:.0%}'}".strip()

    def _share(self, trial: Trial) -> float | None:
        """The share of its budget that a trial has used; None before its first step, and for a budget of seconds."""
        row = last_row(self.plan.root / trial.folder / "metrics.jsonl") or {}
        spent = {"tokens": "num_tokens", "steps": "step", "flops": "flops"}.get(self.plan.config.budget_in)
        amount = row.get(spent) if spent else None
        return amount / self.plan.budget(trial.entry) if isinstance(amount, int | float) else None


def last_row(path: Path) -> dict[str, float] | None:
    """The last complete row of a metrics file; None if there is none or it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            lines = file.read().split(b"\n")[:-1]
        row = json.loads(lines[-1]) if lines else None
    except (OSError, ValueError):
        return None
    return row if isinstance(row, dict) else None
