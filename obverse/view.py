"""The two tables that a part reads, and the only bridges between their two shapes [T] and [S]."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.records import Source

# exp(80) is finite in float32 (5.5e34): beyond it a run is broken, and a clamp keeps 0 * inf out of masked tokens.
LOG_RATIO_LIMIT = 80.0


@dataclass(frozen=True)
class Tokens:
    """The trained tokens of this micro batch, flat, no padding. Every column is [T].

    Example (two samples, "4<eos>" and "5<eos>"): sample = [0, 0, 1, 1], position = [0, 1, 0, 1].
    """

    sample: Tensor  # row in Samples; int64
    source: Tensor  # obverse.records.Source as int64
    position: Tensor  # index in the response, counted from 0; int64
    behavior: Tensor  # log-prob under the distribution that sampled it; 0 where nobody needs it
    anchor: Tensor  # log-prob under the frozen initial model; 0 where nobody needs it
    advantage: Tensor  # written by a critic; 0 without one

    def rows(self, index: Tensor) -> Tokens:
        """The same table with the tokens `index` (a mask or indices) only."""
        return replace(self, **{column.name: getattr(self, column.name)[index] for column in fields(self)})

    def __len__(self) -> int:
        return len(self.sample)


@dataclass(frozen=True)
class Samples:
    """Every sample of the whole update. Columns are [S]; `counts` is [S, number of sources]."""

    reward: Tensor
    correct: Tensor  # bool: the verifier called it right
    group: Tensor  # problem index, dense from 0; int64
    truncated: Tensor  # bool: stopped by the length limit
    counts: Tensor  # trained tokens of each source in each sample; int64

    def to(self, device: object) -> Samples:
        """The same table on another device."""
        return Samples(**{column.name: getattr(self, column.name).to(device) for column in fields(self)})

    def __len__(self) -> int:
        return len(self.reward)


class Live(NamedTuple):
    """What the current policy says of the tokens, detached; [T] each."""

    logp: Tensor
    entropy: Tensor


class View(NamedTuple):
    """Everything a part may look at."""

    tokens: Tokens
    samples: Samples
    live: Live
    progress: float = 0.0  # share of the run that is done, 0 to 1

    def spread(self, per_sample: Tensor) -> Tensor:
        """[S] -> [T]: each token gets its sample's number."""
        return per_sample[self.tokens.sample]

    def sample_sum(self, per_token: Tensor, source: Source) -> Tensor:
        """[T] -> [S]: sum over a sample's tokens of `source`. A sample is never split over micro batches."""
        mine = per_token.where(self.tokens.source == int(source), per_token.new_zeros(()))
        return per_token.new_zeros(len(self.samples)).index_add(0, self.tokens.sample, mine)

    def sample_mean(self, per_token: Tensor, source: Source) -> Tensor:
        """[T] -> [S]: mean over a sample's tokens of `source`; 0 where it has none."""
        return self.sample_sum(per_token, source) / self.samples.counts[:, int(source)].clamp(min=1)


def group_sum(samples: Samples, per_sample: Tensor) -> Tensor:
    """[S] -> [S]: each sample gets the sum over its problem's group."""
    num_groups = int(samples.group.max()) + 1 if len(samples) else 0
    return per_sample.new_zeros(num_groups).index_add(0, samples.group, per_sample)[samples.group]


def group_size(samples: Samples) -> Tensor:
    """[S]: how many samples each sample's group has in this update."""
    return group_sum(samples, samples.reward.new_ones(len(samples)))


def group_mean(samples: Samples, per_sample: Tensor) -> Tensor:
    """[S] -> [S]: each sample gets the mean over its problem's group."""
    return group_sum(samples, per_sample) / group_size(samples)
