"""Configurations of small evaluations, their notes, and the samples that they store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from obverse.config.eval import EvalConfig
from obverse.evaluation.sample_store import SampleStore
from obverse.runtime.callbacks import Silent


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def config(model: Path, **options: object) -> EvalConfig:
    given = {"model": str(model), "num_problems": 4, "k": (1, 3), "max_completion_length": 8}
    return EvalConfig(**(given | options))  # type: ignore[arg-type]


def stored_rows(folder: Path) -> list[dict[str, Any]]:
    return list(SampleStore(folder).rows())
