"""share: 1 / denominator, counted over the whole update. A share is called by its denominator, never by a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from obverse.parts.part import Share

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.records import Source
    from obverse.view import View


def num_samples(view: View, sources: tuple[Source, ...]) -> Tensor:
    """B: the samples of the update that have tokens of `sources`, at least 1."""
    return (view.samples.counts[:, [int(each) for each in sources]].sum(1) > 0).sum().clamp(min=1)


@dataclass(frozen=True)
class PerToken(Share):
    """1 / N: a mean over all tokens of `sources` in the update (of the term's own source when empty)."""

    sources: tuple[Source, ...] = ()

    def __call__(self, view: View, source: Source) -> Tensor:
        columns = [int(each) for each in self.sources or (source,)]
        num_tokens = view.samples.counts[:, columns].sum().clamp(min=1)
        return view.live.logp.new_ones(view.live.logp.shape) / num_tokens


@dataclass(frozen=True)
class PerSequence(Share):
    """1 / (n_i B): a mean over each sample's own tokens, then over the B samples that have any (of `sources`)."""

    sources: tuple[Source, ...] = ()

    def __call__(self, view: View, source: Source) -> Tensor:
        counts = view.samples.counts[:, int(source)].to(view.live.logp.dtype)
        return view.spread(1.0 / counts.clamp(min=1)) / num_samples(view, self.sources or (source,))


@dataclass(frozen=True)
class Constant(Share):
    """1 / (L B): each sample's sum over a constant length L, then a mean over the B samples that have any tokens."""

    length: int

    def __call__(self, view: View, source: Source) -> Tensor:
        return view.live.logp.new_ones(view.live.logp.shape) / (num_samples(view, (source,)) * self.length)


@dataclass(frozen=True)
class PerSample(Share):
    """1 / B: each sample's sum, then a mean over the B samples that have any tokens (of `sources`)."""

    sources: tuple[Source, ...] = ()

    def __call__(self, view: View, source: Source) -> Tensor:
        return view.live.logp.new_ones(view.live.logp.shape) / num_samples(view, self.sources or (source,))
