"""Errors of graders: samples without a grade are dropped, every error is counted, and too many end a run."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence

from obverse.errors import GraderError
from obverse.rewards import ERRORS, NOT_APPLICABLE, REFUSED
from obverse.types import POLICY_KINDS, Group, Sample

NUM_RECENT = 1_000  # the fraction of errors is computed over at least this number of recent samples
NUM_TOLERATED = 2  # errors that never end a run: in a small step one error exceeds any limit


class GraderErrorLimit:
    """Counts the grader's errors over a run's recent steps; `max_errors` is the largest tolerated fraction."""

    def __init__(self, max_errors: float) -> None:
        self.max_errors = max_errors
        self.recent: deque[tuple[int, int]] = deque()  # (errors, samples) of a step

    def drop_ungraded(self, groups: list[Group], grades_rollouts: bool = True) -> list[Group]:
        """The groups without the samples that have no grade; raises GraderError for too many errors.

        Too many: all samples of a step, or more than the fraction `max_errors` of the last NUM_RECENT samples and more
        than NUM_TOLERATED. A sample to which a reward function does not apply is dropped and is no error. Without
        `grades_rollouts` rollouts are not graded, and stay.
        """
        samples = [sample for group in groups for sample in group.samples]
        failed = [sample.grade for sample in samples if _has_failed(sample)]
        self.recent.append((len(failed), len(samples)))
        while sum(num for _, num in self.recent) - self.recent[0][1] >= NUM_RECENT:
            self.recent.popleft()
        num_failed, num = (sum(column) for column in zip(*self.recent, strict=True))
        tolerated = max(self.max_errors * num, NUM_TOLERATED if self.max_errors else 0)
        if failed and (num_failed > tolerated or (len(failed) == len(samples) and self.max_errors < 1)):
            raise GraderError(
                f"the verifier failed on {len(failed)} of the {len(samples)} samples of this step, {num_failed} of the "
                f"last {num} (the first: {failed[0].reason}); nothing was trained on this step: correct the verifier "
                "and resume, or allow more with --max_grader_errors"
            )
        return [
            Group(
                group.problem,
                [
                    sample
                    for sample in group.samples
                    if sample.grade.correct is not None or (not grades_rollouts and sample.kind in POLICY_KINDS)
                ],
            )
            for group in groups
        ]


def count_by_reason(groups: Iterable[Group]) -> dict[str, float]:
    """`grader/timeout` and the like: how many samples had that error, or were refused for that reason."""
    counts = Counter(code for group in groups for sample in group.samples if (code := _reason_code(sample)))
    return {f"grader/{code}": float(number) for code, number in sorted(counts.items())}


def sum_counts(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The counts of several rounds of one step, added."""
    counts: dict[str, float] = {}
    for row in rows:
        for name, number in row.items():
            counts[name] = counts.get(name, 0) + number
    return counts


def _has_failed(sample: Sample) -> bool:
    return sample.grade.correct is None and sample.grade != NOT_APPLICABLE


def _reason_code(sample: Sample) -> str:
    code = sample.grade.reason.partition(":")[0]
    if _has_failed(sample):
        return code if code in ERRORS else "other"
    return code if code in REFUSED else ""
