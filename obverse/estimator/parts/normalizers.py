"""Normalizers: 1 / denominator, counted over the whole update, and named by the denominator, never by a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from obverse.estimator.parts.interfaces import Normalizer

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs
    from obverse.types import Source


def num_samples(inputs: PartInputs, sources: tuple[Source, ...]) -> Tensor:
    """B: the samples of the update that have tokens of `sources`, at least 1."""
    return (inputs.samples.counts[:, [int(source) for source in sources]].sum(1) > 0).sum().clamp(min=1)


@dataclass(frozen=True)
class PerToken(Normalizer):
    """1 / N: a mean over all tokens of `sources` in the update (of the term's source if empty)."""

    sources: tuple[Source, ...] = ()

    def __call__(self, inputs: PartInputs, source: Source) -> Tensor:
        columns = [int(origin) for origin in self.sources or (source,)]
        num_tokens = inputs.samples.counts[:, columns].sum().clamp(min=1)
        return inputs.policy.logp.new_ones(inputs.policy.logp.shape) / num_tokens


@dataclass(frozen=True)
class PerSequence(Normalizer):
    """1 / (n_i B): a mean over each sample's tokens, then over the B samples that have any (of `sources`)."""

    sources: tuple[Source, ...] = ()

    def __call__(self, inputs: PartInputs, source: Source) -> Tensor:
        counts = inputs.samples.counts[:, int(source)].to(inputs.policy.logp.dtype)
        return inputs.spread(1.0 / counts.clamp(min=1)) / num_samples(inputs, self.sources or (source,))


@dataclass(frozen=True)
class Constant(Normalizer):
    """1 / (L B): each sample's sum over a constant length L, then a mean over the B samples that have any tokens."""

    length: int

    def __call__(self, inputs: PartInputs, source: Source) -> Tensor:
        return inputs.policy.logp.new_ones(inputs.policy.logp.shape) / (num_samples(inputs, (source,)) * self.length)


@dataclass(frozen=True)
class PerSample(Normalizer):
    """1 / B: each sample's sum, then a mean over the B samples that have any tokens (of `sources`)."""

    sources: tuple[Source, ...] = ()

    def __call__(self, inputs: PartInputs, source: Source) -> Tensor:
        return inputs.policy.logp.new_ones(inputs.policy.logp.shape) / num_samples(inputs, self.sources or (source,))


@dataclass(frozen=True)
class PerGroup(Normalizer):
    """1 / (n_i G): a mean over each sample's tokens, a sum over a problem's samples, a mean over the G problems."""

    def __call__(self, inputs: PartInputs, source: Source) -> Tensor:
        counts = inputs.samples.counts[:, int(source)]
        num_groups = max(len(inputs.samples.group[counts > 0].unique()), 1)
        return inputs.spread(1.0 / counts.to(inputs.policy.logp.dtype).clamp(min=1)) / num_groups
