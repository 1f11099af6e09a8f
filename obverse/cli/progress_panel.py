"""The progress of a command on the console: a live panel in a terminal, plain lines elsewhere.

The surrogate loss is not shown: only its gradient has a meaning (its value is about 0 in RL).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from obverse.redact import flat
from obverse.runtime.callbacks import Metrics, Phase
from obverse.runtime.progress import shown_by

PHASES: Mapping[Phase, str] = {
    "load": "loading",
    "read": "reading",
    "hash": "hashing",
    "sample": "sampling",
    "grade": "grading",
    "teacher": "scoring by the teacher",
    "train": "training",
    "eval": "evaluating",
    "save": "saving",
    "upload": "uploading",
}
SHARES: frozenset[Phase] = frozenset({"read", "hash", "save", "upload"})  # their units are bytes: shown as a share
BLOCKS = "".join(map(chr, range(0x2581, 0x2589)))  # eighths of a block, rising
IN_A_LINE = ("reward", "accuracy", "problems", "preferred", "critic", "entropy", "length", "speed")
MAX_WIDTH = 100
NUM_RECENT = 20  # steps over which the speed is taken
QUIET_SECONDS = 30.0  # without a terminal, at least this long between two lines on one phase


class Panel:
    """A watcher that prints. As a context manager it restores the terminal.

    Example:
        with Panel() as watcher:
            train(config, watcher)
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.live: Live | None = None
        self.is_closed = False  # the reader of the pipe has ended
        self.current: tuple[Phase, int, int] = ("load", 0, 0)
        self.phase_began = self.last_line = time.monotonic()
        self.done_before = 0  # units of the phase that were done when it began
        self.step_number = self.total_steps = 0
        self.metrics: Metrics = {}
        self.rewards: list[float] = []
        self.marks: list[tuple[int, float]] = []  # (step, time of its end in seconds), the last NUM_RECENT

    @classmethod
    def beside_results(cls) -> Panel:
        """A panel for a command that prints its results on stdout: on stderr where stdout is a file or a pipe."""
        return cls(Console(stderr=not sys.stdout.isatty(), highlight=False))

    def __enter__(self) -> Panel:
        self.reports = ExitStack()
        self.reports.enter_context(shown_by(self.phase))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reports.close()
        if self.live is not None:
            self.live.stop()
            self.live = None

    def banner(self, facts: Sequence[tuple[str, str]]) -> None:
        if not self.console.is_terminal:
            for name, text in facts:
                self._line(f"{name}: {text}")
            return
        table = Table.grid(padding=(0, 2))
        for name, text in facts:
            table.add_row(Text(flat(name), style="dim"), Text(flat(text)))
        self.console.print(table)

    def phase(self, phase: Phase, done: int, total: int) -> None:
        """Show the progress of a phase with the time left; without a terminal a line every QUIET_SECONDS."""
        before, self.current = self.current, (phase, done, total)
        if (before[0], before[2]) != (phase, total) or done < before[1]:
            self.phase_began, self.done_before = time.monotonic(), done
            self.last_line = self.phase_began
        if self.console.is_terminal:
            self._show()
        elif time.monotonic() - self.last_line >= QUIET_SECONDS and not 0 < total <= done:
            self.last_line = time.monotonic()
            self._line(" ".join(filter(None, [PHASES[phase], self.phase_text()])))

    def phase_text(self) -> str:
        """`64/256  left 0:12` of the current phase; a share in place of bytes, the time so far without a total."""
        phase, done, total = self.current
        seconds = time.monotonic() - self.phase_began
        if not total:
            return clock(seconds) if seconds >= 1 else ""
        text = f"{done / total:.0%}" if phase in SHARES else f"{done:,}/{total:,}"
        new = done - self.done_before
        return f"{text}  left {clock(seconds / new * (total - done))}" if new > 0 and done < total else text

    def step(self, step: int, total_steps: int, metrics: Metrics) -> None:
        self.step_number, self.total_steps, self.metrics = step, total_steps, metrics
        self.marks = [*self.marks[1 - NUM_RECENT :], (step, time.monotonic())]
        if "reward" in metrics:
            self.rewards.append(metrics["reward"])
        if self.console.is_terminal:
            self._show()
        else:
            parts = [f"{name} {text}" for name, text in figures(metrics).items() if name in IN_A_LINE]
            self._line(" | ".join([f"step {step}/{total_steps}", *parts, f"left {clock(self.seconds_left())}"]))

    def note(self, text: str) -> None:
        if self.console.is_terminal:
            self.console.print(Text(flat(text)))
        else:
            self._line(text)

    def seconds_left(self) -> float:
        """Seconds to the last step, at the speed of recent steps; 0 before the first step."""
        (first, began), (last, ended) = (self.marks[0], self.marks[-1]) if self.marks else ((0, 0.0), (0, 0.0))
        pace = (ended - began) / (last - first) if last > first else self.metrics.get("step_time", 0.0)
        return pace * max(self.total_steps - self.step_number, 0)

    def _line(self, text: str) -> None:
        """Print a plain line. A closed pipe does not end the run: the run folder has the same information."""
        if self.is_closed:
            return
        try:
            print(" ".join(flat(text).split()), file=self.console.file, flush=True)
        except BrokenPipeError:
            self.is_closed = True

    def _show(self) -> None:
        if self.console.is_terminal and self.live is None:
            # a panel on stderr leaves results on stdout where they are redirected to
            self.live = Live(
                get_renderable=self._render,
                console=self.console,
                refresh_per_second=4,
                redirect_stdout=not self.console.stderr,
            )
            self.live.start()

    def _render(self) -> RenderableType:
        width = min(self.console.width, MAX_WIDTH)
        phase, done, total = self.current
        bars = Table.grid(padding=(0, 2))
        bars.add_column(width=16)
        progress = self.phase_text()
        bars.add_column(width=max(width - 20 - max(len(progress), 22), 10))  # the text is not wrapped
        bars.add_column(no_wrap=True)
        if self.total_steps:
            fraction, remaining = self.step_number / self.total_steps, clock(self.seconds_left())
            bar = ProgressBar(total=self.total_steps, completed=self.step_number)
            bars.add_row(f"step {self.step_number}/{self.total_steps}", bar, f"{fraction:4.0%}  left {remaining}")
        if self.total_steps or not 0 < total <= done:  # a phase that is done is not shown without a run
            bar = ProgressBar(total=total or None, completed=done, pulse=not total)
            bars.add_row(PHASES[phase], bar, progress)
        table = Table.grid(padding=(0, 2))
        table.add_column(width=16, style="dim")
        table.add_column()
        for name, text in figures(self.metrics).items():
            curve = f"   {sparkline(self.rewards, width - 40)}" if name == "reward" else ""
            table.add_row(name, Text(text).append("" if self.console.options.ascii_only else curve, style="green"))
        return Group(bars, table)


def figures(metrics: Metrics) -> dict[str, str]:
    """The metrics to show, as texts by name; those whose metrics are missing are left out."""
    pairs = ", pairs {problems/pairs:.0%}" if "problems/pairs" in metrics else ""
    neither = ", neither {problems/none:.0%}" if metrics.get("problems/none") else ""
    texts = {
        "reward": _figure(metrics, "{reward:.3f}"),
        "accuracy": _figure(metrics, "{accuracy:.1%}"),
        "problems": _figure(metrics, "SFT {problems/demonstration:.0%}, RL {problems/rollout:.0%}" + pairs + neither),
        "preferred": _figure(metrics, "{rewards/accuracies:.1%} of pairs, by {rewards/margins:.3g}"),
        "labeled": _figure(metrics, "{rewards/chosen:.3g} of good, {rewards/rejected:.3g} of bad responses"),
        "critic": _figure(metrics, "squared error {critic/error:.3g}"),
        "equal rewards": _figure(metrics, "{frac_reward_zero_std:.0%} of problems"),
        "entropy": _figure(metrics, "{entropy:.3f}"),
        "length": _figure(metrics, "{completions/mean_length:.1f} tokens"),
        "cut off": _figure(metrics, "{completions/clipped_ratio:.1%} of completions"),
        "gradient norm": _figure(metrics, "{grad_norm:.3g}"),
        "learning rate": _figure(metrics, "{learning_rate:.3g}"),
        "tokens": _figure(metrics, "{num_tokens:,.0f}"),
        "speed": _figure(metrics, "{tokens_per_second:,.0f} tokens/s"),
        "seconds": times(metrics) or None,
    }
    return {name: text for name, text in texts.items() if text is not None}


def _figure(metrics: Metrics, form: str) -> str | None:
    """The form filled with metrics, None if one is missing."""
    try:
        return form.format_map(metrics)
    except KeyError:
        return None


def times(metrics: Metrics) -> str:
    """Seconds per phase of the step: `1.2 (sample 0.5, grade 0.1, train 0.6)`."""
    phases = [
        f"{name.removeprefix('time/')} {value:.1f}" for name, value in metrics.items() if name.startswith("time/")
    ]
    total = f"{metrics['step_time']:.1f}" if "step_time" in metrics else ""
    return f"{total} ({', '.join(phases)})".strip() if phases else total


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve from its lowest to its highest value, each column the mean of a stretch of values."""
    num = min(len(values), max(width, 1))
    stretches = [values[i * len(values) // num : (i + 1) * len(values) // num] for i in range(num)]
    means = [sum(stretch) / len(stretch) for stretch in stretches]
    finite = [mean for mean in means if mean == mean]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((mean - low) * scale)] if mean == mean else " " for mean in means)


def clock(seconds: float) -> str:
    """`4:03`, or `1:02:45` for hours."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
