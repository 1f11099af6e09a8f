"""What a step is worth knowing: one flat row per step for metrics.jsonl, by the field's usual names."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean, pstdev

from obverse.models.batch import Update
from obverse.types import Group, Sample, Source

Row = dict[str, float]


def rollout_metrics(groups: Sequence[Group], kept: Sequence[Sequence[Sample]]) -> Row:
    """Figures of what was sampled and what of it trains.

    `problems/demonstration`, `problems/rollout`, `problems/none`: shares of the step's problems that train on a
    demonstration, on own samples, on nothing (a problem may be in the first two); `problems/pairs`: on a chosen and a
    rejected response, where there are any. Greedy answers, which never train, are in none of the figures.
    """
    own = [sample for group in groups for sample in group.of("rollout", "hinted")]
    graded = [sample for sample in own if sample.grade.correct is not None]
    row: Row = {f"problems/{source.label}": share(_trains(samples, source) for samples in kept) for source in _SEEN}
    if any(group.of("chosen") for group in groups):
        row["problems/pairs"] = share(_trains(samples, Source.CHOSEN) for samples in kept)
    row["problems/none"] = share(not samples for samples in kept)
    if own:
        lengths = [len(sample.ids) for sample in own]
        row |= {
            "completions/mean_length": fmean(lengths),
            "completions/max_length": max(lengths),
            "completions/clipped_ratio": share(sample.finish == "length" for sample in own),
            "completions/formatted": share(sample.grade.formatted for sample in own),
            "completions/ungraded": share(sample.grade.correct is None for sample in own),
        }
    if graded:
        rewards = [[sample.reward for sample in group.of("rollout", "hinted")] for group in groups]
        row |= {
            "reward": fmean(sample.reward for sample in graded),
            "reward_std": fmean(pstdev(each) for each in rewards if each),
            "accuracy": share(sample.correct for sample in graded),
            "frac_reward_zero_std": share(len(set(each)) == 1 for each in rewards if each),
        }
    return row


_SEEN = (Source.DEMONSTRATION, Source.ROLLOUT)


def _trains(samples: Sequence[Sample], source: Source) -> bool:
    return any(source in sample.sources for sample in samples)


def share(flags: Iterable[bool]) -> float:
    """The share of true values; 0 for none."""
    values = list(flags)
    return sum(values) / len(values) if values else 0.0


def staleness(groups: Sequence[Group], step: int) -> Row:
    """Mean over own samples of how many steps the policy, now after `step`, has gone on since it wrote them."""
    ages = [step - sample.weights for group in groups for sample in group.samples if sample.weights is not None]
    return {"staleness": fmean(ages)} if ages else {}


def num_generated(groups: Sequence[Group]) -> int:
    """Tokens that the policy wrote in this step."""
    return sum(source is Source.ROLLOUT for group in groups for sample in group.samples for source in sample.sources)


def num_trained(update: Update | None) -> int:
    """Tokens that carry a gradient in this step."""
    return update.num_tokens if update else 0


def num_flops(num_parameters: int, num_generated: int, num_trained: int) -> float:
    """Floating-point operations: 2 per parameter and generated token, 6 per trained one (2001.08361, sec. 2.1).

    Prompts, attention, an anchor, a critic and evaluations are left out: the same rule for every method.
    """
    return float(num_parameters) * (2 * num_generated + 6 * num_trained)


def mean(rows: Sequence[Row]) -> Row:
    """The mean of each figure over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: fmean(row[name] for row in rows if name in row) for name in names}


class PhaseTimer:
    """Seconds by phase: `with clock("train"): ...`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def row(self, num_tokens: int) -> Row:
        """`time/<phase>`, their sum as `step_time`, and generated plus trained tokens per second."""
        total = sum(self.seconds.values())
        figures = {f"time/{phase}": value for phase, value in self.seconds.items()}
        return figures | {"step_time": total, "tokens_per_second": num_tokens / total if total else 0.0}
