"""Training on the first tokens of rollouts: requests, masks and normalizers of prefixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from obverse.estimator.parts.interfaces import Mask, Named, Normalizer
from obverse.types import GenerationRequest, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs
    from obverse.types import Source


@dataclass(frozen=True)
class PrefixRequest(Named):
    """One sample of the initial model per problem: its first `length` tokens, or all of it for some problems.

    Those problems are the same in every run: their `uniform` number is below `whole_fraction`. Source: 2503.02875.
    """

    length: int
    whole_fraction: float = 0.1

    def __call__(self, problem: Problem, progress: float) -> list[GenerationRequest]:
        limit = None if problem.uniform < self.whole_fraction else self.length
        return [GenerationRequest(rollouts=1, author="initial", max_tokens=limit)]


@dataclass(frozen=True)
class Prefix(Mask):
    """The first `length` tokens of a sample, or all if the problem's `uniform` number is below `whole_fraction`; [T].

    Source: UPFT, 2503.02875.
    """

    length: int
    whole_fraction: float = 0.1

    def __call__(self, inputs: PartInputs, ratio: Tensor, advantage: Tensor) -> Tensor:
        counts = (inputs.tokens.position < self.length) | inputs.spread(inputs.samples.uniform < self.whole_fraction)
        return counts.to(ratio.dtype)


@dataclass(frozen=True)
class PerPrefixToken(Normalizer):
    """1 / N: a mean over the tokens of the update that the mask `Prefix` keeps."""

    length: int
    whole_fraction: float = 0.1

    def __call__(self, inputs: PartInputs, source: Source) -> Tensor:
        counts = inputs.samples.counts[:, int(source)]
        num_tokens = (
            counts.where(inputs.samples.uniform < self.whole_fraction, counts.clamp(max=self.length)).sum().clamp(min=1)
        )
        return inputs.policy.logp.new_ones(inputs.policy.logp.shape) / num_tokens
