"""Requests of samples for a problem (`ask`), and selections among graded samples (`keep`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from obverse.estimator.parts.interfaces import Named
from obverse.seeds import seed_for
from obverse.types import GenerationRequest, Group, Problem, Sample


@dataclass(frozen=True)
class Request(Named):
    """The same request for every problem: numbers of rollouts, demonstrations, pairs and greedy answers.

    `labeled` requests the problem's chosen and rejected responses, of which it may have one only.
    """

    rollouts: int = 0
    demonstrations: int = 0
    pairs: int = 0
    greedy: int = 0
    labeled: int = 0
    author: Literal["policy", "initial"] = "policy"

    def __str__(self) -> str:
        counts = ", ".join(f"{name}={value}" for name, value in vars(self).items() if value not in (0, "policy"))
        return f"request({counts})"

    def __call__(self, problem: Problem, progress: float) -> list[GenerationRequest]:
        return [GenerationRequest(**vars(self))]


@dataclass(frozen=True)
class OwnOrDemonstrated(Named):
    """Rollouts of a problem with probability `share`, else its demonstration; without one always rollouts.

    The draw is a function of seed, problem and progress: a resumed run repeats it, and each visit has another one.
    Source: GKD's lambda, 2306.13649 algorithm 1.
    """

    rollouts: int
    share: float = 0.5
    seed: int = 42

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"the share of rollouts must be between 0 and 1, not {self.share:g}")

    def __call__(self, problem: Problem, progress: float) -> list[GenerationRequest]:
        uniform = seed_for(self.seed, "rollouts or demonstration", problem.id, progress) / 2**63
        has_rollouts = uniform < self.share or not problem.demonstration
        return [GenerationRequest(rollouts=self.rollouts) if has_rollouts else GenerationRequest(demonstrations=1)]

    def alternatives(self, problem: Problem) -> list[list[GenerationRequest]]:
        """Every list of requests that a call may return for the problem."""
        rollouts, demonstration = GenerationRequest(rollouts=self.rollouts), GenerationRequest(demonstrations=1)
        if not problem.demonstration or self.share == 1:
            return [[rollouts]]
        return [[rollouts], [demonstration]] if self.share else [[demonstration]]


@dataclass(frozen=True)
class Everything(Named):
    """Keep the whole group."""

    def __call__(self, group: Group) -> list[Sample]:
        return group.samples


@dataclass(frozen=True)
class SolvedGate(Named):
    """HPT's switch: a problem with more than `gate` correct rollouts trains on its rollouts, else on its demonstration.

    `gate` is a number of correct rollouts, compared inclusively: 0 means that one success is enough for RL. A failed
    problem without a demonstration trains nothing. Source: 2509.04419 sec. 4; `switch_gate` in the authors' code.
    """

    gate: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"correct"})

    def __call__(self, group: Group) -> list[Sample]:
        return group.of("rollout") if group.num_correct > self.gate else group.of("demonstration")


@dataclass(frozen=True)
class MixedOutcomes(Named):
    """Keep the rollouts of a problem that has both correct and incorrect ones; else nothing. Source: DAPO, 2503.14476.

    `correct` decides, not the reward: shaping a reward does not make a group mixed.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"correct", "own_group"})

    def __call__(self, group: Group) -> list[Sample]:
        rollouts = group.of("rollout")
        return rollouts if 0 < group.num_correct < len(rollouts) else []


@dataclass(frozen=True)
class CorrectOnly(Named):
    """Keep the correct rollouts. Source: RAFT, 2304.06767, and rejection sampling, 2308.01825."""

    needs: ClassVar[frozenset[str]] = frozenset({"correct"})

    def __call__(self, group: Group) -> list[Sample]:
        return [sample for sample in group.of("rollout") if sample.correct]


@dataclass(frozen=True)
class IncorrectOnly(Named):
    """Keep the incorrect rollouts. Source: negative sample reinforcement, 2506.01347."""

    needs: ClassVar[frozenset[str]] = frozenset({"correct"})

    def __call__(self, group: Group) -> list[Sample]:
        return [sample for sample in group.of("rollout") if not sample.correct]


@dataclass(frozen=True)
class DistinctCorrect(Named):
    """Keep the correct rollouts, the first of each text. Source: rejection sampling, 2308.01825."""

    needs: ClassVar[frozenset[str]] = frozenset({"correct"})

    def __call__(self, group: Group) -> list[Sample]:
        texts: dict[str, Sample] = {}
        for sample in group.of("rollout"):
            if sample.correct:
                texts.setdefault(sample.text, sample)
        return list(texts.values())


@dataclass(frozen=True)
class Demonstrated(Named):
    """Keep the whole group of a problem that has a demonstration; else nothing. Source: 2502.18679."""

    def __call__(self, group: Group) -> list[Sample]:
        return group.samples if group.of("demonstration") else []


@dataclass(frozen=True)
class BestOf(Named):
    """Keep the rollout of highest reward, the first of several. Source: best of K, 2304.06767."""

    needs: ClassVar[frozenset[str]] = frozenset({"reward"})

    def __call__(self, group: Group) -> list[Sample]:
        rollouts = group.of("rollout")
        return [max(rollouts, key=lambda sample: sample.reward)] if rollouts else []
