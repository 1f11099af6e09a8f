"""Rollouts that continue a hint, the beginning of a demonstration: its length, and how hint and continuation count."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, ClassVar

from obverse.estimator.parts.interfaces import Mask, Named, Normalizer, Part
from obverse.estimator.parts.masks import DoubleClip
from obverse.estimator.tables import group_sum
from obverse.seeds import seed_for
from obverse.types import GenerationRequest, Problem, Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs


def annealed(progress: float, start: float, end: float, until: float = 1.0) -> float:
    """The value at `progress` of half a cosine from `start` to `end`, which it reaches at `until` (0 to 1)."""
    done = min(max(progress / until, 0.0), 1.0)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * done))


def num_chunks(problem: Problem, most: int) -> int:
    """The number of chunks of whole steps that a demonstration is cut into; `most` for a problem without one."""
    return min(most, len(problem.demonstration) or most)


def hint_rng(seed: int, problem: Problem, progress: float) -> Random:
    """The problem's random stream at this point of the run; the same in every run with this seed, resumed or not."""
    return Random(seed_for(seed, "hint", problem.id, progress))


@dataclass(frozen=True)
class BinomialHint(Named):
    """All samples of a problem continue one hint of Binomial(chunks, p) chunks; no hint after `until` of the run.

    p falls from `high` to `low` along a cosine. A demonstration of fewer steps than `chunks` has a chunk per step.
    Source: 2505.16984.
    """

    rollouts: int
    chunks: int = 5
    high: float = 0.95
    low: float = 0.05
    until: float = 0.6
    seed: int = 42

    def __call__(self, problem: Problem, progress: float) -> list[GenerationRequest]:
        chunks, rng = num_chunks(problem, self.chunks), hint_rng(self.seed, problem, progress)
        probability = annealed(progress, self.high, self.low, self.until) if progress < self.until else 0.0
        num_given = sum(rng.random() < probability for _ in range(chunks))
        return [GenerationRequest(rollouts=self.rollouts, hint=num_given / chunks)]


@dataclass(frozen=True)
class UniformHint(Named):
    """All samples of a problem continue one hint of 0 to all chunks, each number equally likely, over the whole run.

    Source: reverse curriculum, 2402.05808, as in the code of 2505.16984.
    """

    rollouts: int
    chunks: int = 5
    seed: int = 42

    def __call__(self, problem: Problem, progress: float) -> list[GenerationRequest]:
        chunks = num_chunks(problem, self.chunks)
        num_given = hint_rng(self.seed, problem, progress).randint(0, chunks)
        return [GenerationRequest(rollouts=self.rollouts, hint=num_given / chunks)]


@dataclass(frozen=True)
class StagedHint(Named):
    """All samples of a problem continue one hint: all chunks at first, one less every until / (chunks + 1) of the run.

    Source: the deterministic curriculum in the code of 2505.16984.
    """

    rollouts: int
    chunks: int = 5
    until: float = 0.6

    def __call__(self, problem: Problem, progress: float) -> list[GenerationRequest]:
        chunks = num_chunks(problem, self.chunks)
        num_left = chunks - math.floor(progress * (chunks + 1) / self.until + 1e-9)
        return [GenerationRequest(rollouts=self.rollouts, hint=min(max(num_left, 0), chunks) / chunks)]


@dataclass(frozen=True)
class OneHinted(Named):
    """All samples but one start from the prompt; the last continues a fraction ~ Uniform(low, high) of a demonstration.

    The fraction counts tokens, rounded down. The lower bound falls from `high` to `low` along a cosine over the run.
    Source: 2507.01679.
    """

    rollouts: int
    high: float = 0.95
    low: float = 0.05
    seed: int = 42

    def __call__(self, problem: Problem, progress: float) -> list[GenerationRequest]:
        low = annealed(progress, self.high, self.low)
        fraction = low + (self.high - low) * hint_rng(self.seed, problem, progress).random()
        return [
            GenerationRequest(rollouts=self.rollouts - 1),
            GenerationRequest(rollouts=1, hint=fraction, hint_in="tokens"),
        ]


@dataclass(frozen=True)
class AgainstUnhinted(Part):
    """A = R - mean(R of the problem's samples without a hint), for a hint and its continuation alike.

    With `alone` a continuation has no baseline, A = R, while its hint keeps it. Without unhinted samples the mean is 0.
    Source: 2507.01679; `alone` is `dr_grpo_prefix` in the authors' code.
    """

    alone: bool = False
    needs: ClassVar[frozenset[str]] = frozenset({"reward"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        samples, reward = inputs.samples, inputs.samples.reward
        plain = (samples.counts[:, int(Source.HINT)] == 0).to(reward.dtype)
        mean = group_sum(samples, reward * plain) / group_sum(samples, plain).clamp(min=1)
        advantage = inputs.spread(reward - mean)
        if not self.alone:
            return advantage
        continuation = (inputs.tokens.source == int(Source.ROLLOUT)) & (inputs.spread(plain) == 0)
        return inputs.spread(reward).where(continuation, advantage)


@dataclass(frozen=True)
class TornHint(Mask):
    """DoubleClip, restricted to the tokens of highest entropy in each sample's hint: a fraction `top`, at least one.

    A hint of n tokens keeps 1 + floor(top (n - 1)), which is the quantile 1 - top of torch, inclusive; ties with the
    last one are kept. Source: 2507.01679.
    """

    top: float = 0.2
    low: float = 0.2
    high: float = 0.2
    most: float = 3.0
    needs: ClassVar[frozenset[str]] = frozenset({"entropy"})

    def __call__(self, inputs: PartInputs, ratio: Tensor, advantage: Tensor) -> Tensor:
        entropy, hint = inputs.policy.entropy, inputs.tokens.source == int(Source.HINT)
        torn = hint & ~hint
        for sample in inputs.tokens.sample[hint].unique().tolist():
            is_hint = hint & (inputs.tokens.sample == sample)
            num_kept = 1 + math.floor(self.top * (int(is_hint.sum()) - 1) + 1e-9)
            torn |= is_hint & (entropy >= entropy[is_hint].topk(num_kept).values.min())
        return DoubleClip(self.low, self.high, self.most)(inputs, ratio, advantage) * torn.to(ratio.dtype)


@dataclass(frozen=True)
class ConstantOfAll(Normalizer):
    """1 / (L S): each sample's sum over a constant length L, then a mean over all S samples that train any token."""

    length: int

    def __call__(self, inputs: PartInputs, source: Source) -> Tensor:
        num_samples = (inputs.samples.counts.sum(1) > 0).sum().clamp(min=1)
        return inputs.policy.logp.new_ones(inputs.policy.logp.shape) / (num_samples * self.length)
