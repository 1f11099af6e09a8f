"""Training on the first tokens of own samples: who writes how much, and what counts of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from obverse.parts.part import Gate, Named, Share
from obverse.records import Problem, Wish

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.records import Source
    from obverse.view import View


@dataclass(frozen=True)
class PrefixRequest(Named):
    """One sample of the initial model per problem: its first `length` tokens, or all of it for a share of problems.

    Which problems those are never changes: their own number, drawn in [0, 1), lies below `whole`. Source: 2503.02875.
    """

    length: int
    whole: float = 0.1

    def __call__(self, problem: Problem, progress: float) -> list[Wish]:
        limit = None if problem.draw < self.whole else self.length
        return [Wish(rollouts=1, author="initial", max_tokens=limit)]


@dataclass(frozen=True)
class Prefix(Gate):
    """The first `length` tokens of a sample; every token where the problem's own number lies below `whole`; [T].

    Source: UPFT, 2503.02875.
    """

    length: int
    whole: float = 0.1

    def __call__(self, view: View, ratio: Tensor, advantage: Tensor) -> Tensor:
        counts = (view.tokens.position < self.length) | view.spread(view.samples.draw < self.whole)
        return counts.to(ratio.dtype)


@dataclass(frozen=True)
class PerPrefixToken(Share):
    """1 / N: a mean over the tokens of the update that the gate of the same name leaves."""

    length: int
    whole: float = 0.1

    def __call__(self, view: View, source: Source) -> Tensor:
        counts = view.samples.counts[:, int(source)]
        num_tokens = counts.where(view.samples.draw < self.whole, counts.clamp(max=self.length)).sum().clamp(min=1)
        return view.live.logp.new_ones(view.live.logp.shape) / num_tokens
