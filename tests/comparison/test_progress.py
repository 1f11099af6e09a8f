"""The time left of a comparison, from finished trials and the shares of running ones."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from obverse.comparison import progress as module
from obverse.comparison.progress import Progress


@pytest.mark.parametrize(
    ("unit", "before", "left"), [("steps", 0, "0:02:40"), ("steps", 2, "0:03:33"), ("seconds", 0, "unknown")]
)
def test_a_running_trial_counts_by_its_share(
    unit: str, before: int, left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 4 trials of 10 steps 8 steps are done after 40 seconds, or 6 of them since the comparison went on."""

    def row(step: int) -> None:
        (tmp_path / "0").mkdir(exist_ok=True)
        (tmp_path / "0" / "metrics.jsonl").write_text(json.dumps({"step": step}) + "\n")

    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "result", lambda plan, trial: None)
    trials = [SimpleNamespace(folder=str(number)) for number in range(4)]
    plan: Any = SimpleNamespace(
        trials=lambda: [*map(Key, trials)],
        root=tmp_path,
        config=SimpleNamespace(budget_in=unit),
        budget=lambda entry: 10,
    )
    if before:
        row(before)
    progress = Progress(plan, Console(file=io.StringIO()))
    assert progress.remaining_time() == "unknown"
    row(8)
    now[0] = 40.0
    assert progress.remaining_time() == left


class Key:
    """A trial that can be a key: equal to itself alone."""

    def __init__(self, trial: SimpleNamespace) -> None:
        self.folder, self.entry = trial.folder, "sft"
