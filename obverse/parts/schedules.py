"""Numbers that change over a run: each schedule maps progress (0 to 1) to a float."""

from __future__ import annotations

from dataclasses import dataclass

from obverse.parts.part import Named


@dataclass(frozen=True)
class Linear(Named):
    """From `start` to `end` in a straight line over the whole run."""

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        return self.start + (self.end - self.start) * min(max(progress, 0.0), 1.0)
