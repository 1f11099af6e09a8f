"""What failing graders leave behind: their samples train nothing, every error is counted, and too many end a run."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from obverse.errors import GraderError
from obverse.rewards import ERRORS, NOT_APPLICABLE, REFUSED
from obverse.training.metrics import Row
from obverse.types import POLICY_KINDS, Group, Sample

NUM_RECENT = 1_000  # samples, at least, that the share of errors is taken over, once a run has graded so many
NUM_TOLERATED = 2  # errors that never end a run by themselves: in a small step one is more than any share


class GraderErrorLimit:
    """The errors of a run's recent steps."""

    def __init__(self, max_errors: float) -> None:
        self.max_errors = max_errors
        self.recent: deque[tuple[int, int]] = deque()  # errors and samples of a step

    def drop_ungraded(self, groups: list[Group], own: bool = True) -> list[Group]:
        """Return the groups without samples that no verdict could be given; GraderError when they are too many.

        Too many: all of a step, or more than the share `max_errors` of the last NUM_RECENT samples and more than
        NUM_TOLERATED. A reward function may say that it does not apply to a sample: that one is left out and counts as
        no error. Without `own` nobody asked for a verdict on own samples, and they stay.
        """
        samples = [sample for group in groups for sample in group.samples]
        failed = [sample.grade for sample in samples if _failed(sample)]
        self.recent.append((len(failed), len(samples)))
        while sum(num for _, num in self.recent) - self.recent[0][1] >= NUM_RECENT:
            self.recent.popleft()
        num_failed, num = (sum(column) for column in zip(*self.recent, strict=True))
        tolerated = max(self.max_errors * num, NUM_TOLERATED if self.max_errors else 0)
        if failed and (num_failed > tolerated or (len(failed) == len(samples) and self.max_errors < 1)):
            raise GraderError(
                f"the verifier failed on {len(failed)} of the {len(samples)} samples of this step, {num_failed} of the "
                f"last {num} (the first: {failed[0].reason}); nothing was trained on this step: mend the verifier and "
                "resume, or allow more with --max_grader_errors"
            )
        return [
            Group(
                group.problem,
                [s for s in group.samples if s.grade.correct is not None or (not own and s.kind in POLICY_KINDS)],
            )
            for group in groups
        ]


def count_by_reason(groups: Iterable[Group]) -> Row:
    """`grader/timeout` and the like: how many samples of a step had that error, or were refused for that reason."""
    found = Counter(name for group in groups for sample in group.samples if (name := _reason(sample)))
    return {f"grader/{name}": float(number) for name, number in sorted(found.items())}


def sum_counts(rows: Sequence[Row]) -> Row:
    """The counts of several rounds of one step."""
    found: Counter[str] = Counter()
    for row in rows:
        found.update(row)
    return dict(found)


def _failed(sample: Sample) -> bool:
    return sample.grade.correct is None and sample.grade != NOT_APPLICABLE


def _reason(sample: Sample) -> str:
    code = sample.grade.reason.partition(":")[0]
    if _failed(sample):
        return code if code in ERRORS else "other"
    return code if code in REFUSED else ""
