"""Numbers that change over a run: each schedule maps progress (0 to 1) to a float."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from obverse.estimator.parts.interfaces import Named


@dataclass(frozen=True)
class Linear(Named):
    """From `start` to `end` in a straight line over the whole run."""

    start: float
    end: float

    def __call__(self, progress: float) -> float:
        return self.start + (self.end - self.start) * min(max(progress, 0.0), 1.0)


@dataclass(frozen=True)
class WarmCosine(Named):
    """Up from 0 to `peak` in a straight line, down to `valley` along half a cosine, then constant.

    `warmup` and `decay` are fractions of the run. Source: CHORD's mu, 2508.11408, which counts steps.
    """

    peak: float
    valley: float
    warmup: float = 0.0
    decay: float = 1.0

    def __call__(self, progress: float) -> float:
        if progress < self.warmup:
            return self.peak * max(progress, 0.0) / self.warmup
        if progress >= self.warmup + self.decay:
            return self.valley
        cosine = math.cos(math.pi * (progress - self.warmup) / self.decay)
        return self.valley + (self.peak - self.valley) * (1 + cosine) / 2


@dataclass(frozen=True)
class RiseAndFall(Named):
    """Up from 0 to `peak` over the share `rise` of the run, then down to 0 over the share `fall`; 0 leaves one out.

    Source: RLSD's lambda in ms-swift, which counts steps.
    """

    peak: float
    rise: float = 0.0
    fall: float = 0.0

    def __call__(self, progress: float) -> float:
        if progress < self.rise:
            return self.peak * progress / self.rise
        return self.peak * max(1 - (progress - self.rise) / self.fall, 0.0) if self.fall else self.peak


@dataclass(frozen=True)
class Rest(Named):
    """1 - `of`: the complement of another schedule."""

    of: Callable[[float], float]

    def __call__(self, progress: float) -> float:
        return 1.0 - self.of(progress)
