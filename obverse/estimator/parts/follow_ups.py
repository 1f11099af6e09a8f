"""Further samples of a problem once the first are graded: hints that get longer after failures, and their samples."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, product
from typing import TYPE_CHECKING, ClassVar

from obverse.estimator.parts.interfaces import FollowUp, Named, Part
from obverse.types import GenerationRequest, Group, Problem, Sample, Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs

QUARTER, HALF, WHOLE = 0.25, 0.5, 1.0  # fractions of the demonstration that are given
BLANK_LINE_MARGIN = 0.3


@dataclass(frozen=True)
class HintAfterFailure(FollowUp):
    """Rounds of 2, 1 and 1 further samples: with a hint where too few samples so far are correct, else without one.

    Fewer than 2 correct: 2 samples behind a hint of a quarter of the demonstration's tokens; then fewer than 4: one
    behind a half; then fewer than 7: the demonstration itself. A hint ends at the first blank line that is at most
    `margin` of the demonstration later. Without a demonstration no sample has a hint. Source: 2512.17636 [code].
    """

    thresholds: tuple[int, int, int] = (2, 4, 7)
    margin: float = BLANK_LINE_MARGIN
    numbers: ClassVar[tuple[int, int, int]] = (2, 1, 1)
    fractions: ClassVar[tuple[float, float, float]] = (QUARTER, HALF, WHOLE)

    @property
    def max_rounds(self) -> int:
        return len(self.numbers)

    def __call__(self, group: Group, progress: float, round_number: int) -> list[GenerationRequest]:
        num_correct = sum(sample.correct for sample in group.samples)
        has_hint = num_correct < self.thresholds[round_number - 1] and bool(group.problem.demonstration)
        return [self._request(round_number - 1, has_hint)]

    def alternatives(self, problem: Problem) -> list[list[GenerationRequest]]:
        """Every combination of rounds with and without a hint."""
        choices = (False, True) if problem.demonstration else (False,)
        return [
            [self._request(index, has_hint) for index, has_hint in enumerate(flags)]
            for flags in product(choices, repeat=len(self.numbers))
        ]

    def _request(self, index: int, has_hint: bool) -> GenerationRequest:
        number, fraction = self.numbers[index], self.fractions[index]
        if not has_hint:
            return GenerationRequest(rollouts=number)
        if fraction == WHOLE:
            return GenerationRequest(demonstrations=number)
        return GenerationRequest(rollouts=number, hint=fraction, hint_in="tokens", hint_margin=self.margin)


@dataclass(frozen=True)
class HintLadder(FollowUp):
    """After a failure of all samples, `rollouts` more behind a longer hint, until one of them is correct.

    Round k of `rounds` gives the fraction k / (rounds + 1) of the demonstration's tokens: the shortest hint with a
    success is searched for from below. A problem without a demonstration gets none. Source: after 2506.17211
    [derived]: only the abstract was read, the rule of the search is ours.
    """

    rollouts: int
    rounds: int = 3

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"the search for a hint needs at least one round, not {self.rounds}")

    @property
    def max_rounds(self) -> int:
        return self.rounds

    def __call__(self, group: Group, progress: float, round_number: int) -> list[GenerationRequest]:
        is_solved = any(sample.correct for sample in group.of("rollout", "hinted"))
        return [] if is_solved or not group.problem.demonstration else [self._request(round_number)]

    def alternatives(self, problem: Problem) -> list[list[GenerationRequest]]:
        """No further sample, or those of the first 1, 2, ... rounds."""
        rungs = [self._request(number) for number in range(1, self.rounds + 1)] if problem.demonstration else []
        return list(accumulate(([request] for request in rungs), initial=[]))

    def _request(self, round_number: int) -> GenerationRequest:
        fraction = round_number / (self.rounds + 1)
        return GenerationRequest(rollouts=self.rollouts, hint=fraction, hint_in="tokens")


@dataclass(frozen=True)
class MixedGroup(Named):
    """Keep the whole group of a problem with both correct and incorrect samples, demonstrations counted; else nothing.

    Source: the validity mask of 2512.17636 [code].
    """

    needs: ClassVar[frozenset[str]] = frozenset({"correct"})

    def __call__(self, group: Group) -> list[Sample]:
        return group.samples if len({sample.correct for sample in group.samples}) == 2 else []


@dataclass(frozen=True)
class LatestHint(Named):
    """Keep the rollouts without a hint where one is correct or no other was sampled; else those of the longest hint.

    Source: after 2506.17211 [derived].
    """

    needs: ClassVar[frozenset[str]] = frozenset({"correct"})

    def __call__(self, group: Group) -> list[Sample]:
        hinted = group.of("hinted")
        if group.num_correct or not hinted:
            return group.of("rollout")
        lengths = [sample.sources.count(Source.HINT) for sample in hinted]
        longest = max(lengths)
        return [sample for sample, length in zip(hinted, lengths, strict=True) if length == longest]


@dataclass(frozen=True)
class OncePerHint(Part):
    """A = 1 / n for the n samples of a problem that continue hints of the same length; [T].

    They have the same hint, so that together it counts as in one sample. Source: 2512.17636; the code trains the
    hint of one of two such samples.
    """

    is_policy_independent: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs) -> Tensor:
        samples = inputs.samples
        lengths = samples.counts[:, int(Source.HINT)]
        is_same = (samples.group[:, None] == samples.group) & (lengths[:, None] == lengths)
        return inputs.spread(1.0 / is_same.sum(1).to(samples.reward.dtype))
