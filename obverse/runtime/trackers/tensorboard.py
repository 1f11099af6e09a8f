"""TensorBoard: event files in the run folder, written by torch's SummaryWriter.

TensorBoard draws over one axis, so figures are written twice: `steps` has them over steps, `tokens` over tokens. Both
folders are runs in TensorBoard. With the folder of a comparison as its --logdir, it shows all runs together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import ClassVar

from torch.utils.tensorboard import SummaryWriter

from obverse.runtime.trackers.tracker import COLUMNS, Completion, TrackedRun

FOLDER = "tensorboard"
BY_TOKENS = "by_tokens"  # prefix of the names of figures over tokens


class TensorBoardTracker:
    """Writes event files to `tensorboard/` in the run folder."""

    # A file begins with a mark from which step on TensorBoard ignores earlier files; the first file needs one too.
    discards_later_steps: ClassVar[bool] = True
    writes_steps_late: ClassVar[bool] = False

    def open(self, run: TrackedRun) -> str:
        root = run.folder / FOLDER
        after_step, after_tokens = (run.step + 1, run.num_tokens + 1) if run.step else (0, 0)
        self.steps = SummaryWriter(str(root / "steps"), purge_step=after_step)
        self.tokens = SummaryWriter(str(root / "tokens"), purge_step=after_tokens)
        config = json.dumps(run.config, indent=2, ensure_ascii=False)
        self.steps.add_text("config", f"```json\n{config}\n```", run.step)
        return f"tensorboard --logdir {root}"

    def log_figures(self, step: int, num_tokens: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.steps.add_scalar(name, value, step)
            self.tokens.add_scalar(f"{BY_TOKENS}/{name}", value, num_tokens)
        self.steps.flush()
        self.tokens.flush()

    def log_completions(self, step: int, completions: Sequence[Completion]) -> None:
        self.steps.add_text("completions", markdown_table(completions), step)
        self.steps.flush()

    def close(self, exit_code: int) -> None:
        self.steps.close()
        self.tokens.close()


def markdown_table(completions: Sequence[Completion]) -> str:
    """The completions as a Markdown table, one line per completion."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for completion in completions:
        cells = (str(value).replace("|", "\\|").replace("\n", "<br>") for value in astuple(completion))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
