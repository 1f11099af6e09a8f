"""The inputs of a part: a table of trained tokens [T], a table of samples [S], and the conversions between the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from obverse.estimator.columns import MissingColumn, part_needs, visible_columns

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.types import Source

# exp(80) is finite in float32 (5.5e34): beyond it a run is broken, and a clamp keeps 0 * inf out of masked tokens.
LOG_RATIO_LIMIT = 80.0

Table = TypeVar("Table", "Tokens", "Samples")

MISSING: Any = None  # a column without numbers: the table replaces it by a `MissingColumn`, which raises when read


@dataclass(frozen=True)
class Tokens:
    """The trained tokens of this micro batch, flat, no padding. Every column is [T].

    Example (two samples, "4<eos>" and "5<eos>"): sample = [0, 0, 1, 1], position = [0, 1, 0, 1].
    """

    sample: Tensor  # row in Samples; int64
    source: Tensor  # obverse.types.Source as int64
    position: Tensor  # index in the response, counted from 0; int64
    behavior: Tensor  # log-prob under the distribution that sampled it; 0 for other sources, unless a part needs it
    anchor: Tensor = MISSING  # log-prob under the frozen initial model (TRL: ref_model), where a part needs it
    advantage: Tensor = MISSING  # computed by a critic
    sampler: Tensor = MISSING  # log-prob that the sampler reported, where the trainer computes `behavior` itself
    value: Tensor = MISSING  # the critic's value before the update
    returns: Tensor = MISSING  # the critic's regression target
    reward: Tensor = MISSING  # the shaping reward, at the token where it arises
    teacher: Tensor = MISSING  # log-prob under the method's teacher, which reads its own prompt

    def __post_init__(self) -> None:
        _mark(self, "tokens", self.behavior)

    def rows(self, index: Tensor) -> Tokens:
        """The same table with the tokens `index` (a mask or indices) only."""
        return self.map_columns(lambda column: column[index])

    def map_columns(self, change: Callable[[Tensor], Tensor]) -> Tokens:
        """The table with `change` applied to every column; a missing column stays missing."""
        return Tokens(**{name: _changed(column, change) for name, column in vars(self).items()})

    def __len__(self) -> int:
        return len(self.sample)


@dataclass(frozen=True)
class Samples:
    """Every sample of the whole update. Columns are [S]; `counts` is [S, number of sources].

    `rewards` and `reward_weights` are [S, K], for the K reward functions that graded some sample of the update.
    """

    reward: Tensor
    correct: Tensor  # bool: graded as correct
    group: Tensor  # problem index, dense from 0; int64
    truncated: Tensor  # bool: stopped by the length limit
    counts: Tensor  # trained tokens of each source in each sample; int64
    memory: Tensor = MISSING  # the method's persistent number for the problem, or the run, before this update
    uniform: Tensor = MISSING  # the problem's fixed uniform number in [0, 1), for random choices
    rewards: Tensor = MISSING  # the reward of each reward function, before its weight; NaN where it does not apply
    reward_weights: Tensor = MISSING  # the weight of each reward function in `reward`; 0 where it does not apply

    def __post_init__(self) -> None:
        _mark(self, "samples", self.reward)

    def to(self, device: Any) -> Samples:
        """The same table on another device."""
        return self.map_columns(lambda column: column.to(device))

    def map_columns(self, change: Callable[[Tensor], Tensor]) -> Samples:
        """The table with `change` applied to every column; a missing column stays missing."""
        return Samples(**{name: _changed(column, change) for name, column in vars(self).items()})

    def __len__(self) -> int:
        return len(self.reward)


class PolicyOutputs(NamedTuple):
    """The current policy's outputs for the trained tokens, detached; [T] each."""

    logp: Tensor
    entropy: Tensor
    value: Tensor = MISSING  # of a scalar head: a critic's value before the token, or a reward model's score after it


class PartInputs(NamedTuple):
    """All inputs of a part."""

    tokens: Tokens
    samples: Samples
    policy: PolicyOutputs
    progress: float = 0.0  # fraction of the run that is done, 0 to 1
    # The trained tokens of the whole update, of all micro batches and ranks, by sample and position, with the policy
    # outputs before this optimizer step. None: these inputs are the whole update.
    update: Any = None

    def whole_update(self) -> PartInputs:
        """The inputs of the whole update; ConfigError if they were not computed and this is a part of it."""
        if isinstance(self.update, PartInputs):
            return self.update
        if isinstance(self.update, MissingColumn):
            raise self.update.error()
        if len(self.tokens) != int(self.samples.counts.sum()):
            raise MissingColumn("update", self.policy.logp).error()
        return self

    def from_update(self, per_token: Tensor) -> Tensor:
        """[U] -> [T]: the values of this micro batch's tokens among those of the whole update."""
        update = self.whole_update()
        if update is self:
            return per_token
        stride = int(update.tokens.position.max()) + 1
        keys = update.tokens.sample * stride + update.tokens.position
        index = keys.new_zeros(int(keys.max()) + 1)
        index[keys] = keys.new_ones(len(keys)).cumsum(0) - 1
        return per_token[index[self.tokens.sample * stride + self.tokens.position]]

    def visible_to(self, part: object, has_logp: bool = True) -> PartInputs:
        """The inputs with the columns that `part` declares in its `needs`, and those that every update has.

        Reading any other column raises ConfigError. `has_logp` False hides logp and entropy, which a scalar head lacks.
        """
        hidden = MissingColumn("update", self.policy.logp, part)
        if "update" not in part_needs(part):
            return self._visible_columns(part, has_logp, hidden)
        return self._visible_columns(part, has_logp, self.whole_update()._visible_columns(part, has_logp, hidden))

    def _visible_columns(self, part: object, has_logp: bool, update: PartInputs | MissingColumn) -> PartInputs:
        outputs = visible_columns(part, "policy", self.policy._asdict())
        if outputs["value"] is None:
            outputs["value"] = MissingColumn("policy.value", self.policy.logp, part)
        if not has_logp:
            outputs |= {name: MissingColumn(f"policy.{name}", self.policy.logp, part) for name in ("logp", "entropy")}
        tokens = _copy(self.tokens, visible_columns(part, "tokens", vars(self.tokens)))
        samples = _copy(self.samples, visible_columns(part, "samples", vars(self.samples)))
        return PartInputs(tokens, samples, PolicyOutputs(**outputs), self.progress, update)

    def spread(self, per_sample: Tensor) -> Tensor:
        """[S] -> [T]: the value of each token's sample."""
        return per_sample[self.tokens.sample]

    def sample_sum(self, per_token: Tensor, source: Source | None = None) -> Tensor:
        """[T] -> [S]: sum over each sample's tokens of `source` (None: all). No sample is split over micro batches."""
        if source is not None:
            per_token = per_token.where(self.tokens.source == int(source), per_token.new_zeros(()))
        return per_token.new_zeros(len(self.samples)).index_add(0, self.tokens.sample, per_token)

    def is_last(self) -> Tensor:
        """bool [T]: whether a token is the last trained one of its sample."""
        position = self.tokens.position
        last = position.new_full((len(self.samples),), -1).scatter_reduce(0, self.tokens.sample, position, "amax")
        return position == last[self.tokens.sample]

    def in_rows(self, per_token: Tensor, fill: float = 0.0) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """[T] -> [M, L]: a row per sample of this micro batch, its trained tokens in order, padded with `fill`.

        Also returns the tokens' (row, column) indices: `rows[indices]` is [T] again.
        """
        samples, row = self.tokens.sample.unique(return_inverse=True)
        order = (row * (int(self.tokens.position.max()) + 1) + self.tokens.position).argsort()
        starts = row.bincount(minlength=len(samples)).cumsum(0) - row.bincount(minlength=len(samples))
        rank = row.new_empty(len(row))
        rank[order] = row.new_ones(len(row)).cumsum(0) - 1 - starts[row[order]]
        table = per_token.new_full((len(samples), int(rank.max()) + 1), fill)
        table[row, rank] = per_token
        return table, (row, rank)

    def sample_mean(self, per_token: Tensor, source: Source) -> Tensor:
        """[T] -> [S]: mean over each sample's tokens of `source`; 0 where it has none."""
        return self.sample_sum(per_token, source) / self.samples.counts[:, int(source)].clamp(min=1)


def _mark(table: Tokens | Samples, name: str, like: Tensor) -> None:
    """Replace the columns without numbers by a MissingColumn."""
    for column in fields(table):
        if getattr(table, column.name) is None:
            object.__setattr__(table, column.name, MissingColumn(f"{name}.{column.name}", like))


def _copy(table: Table, columns: dict[str, Any]) -> Table:
    """The table with other columns, built without `__post_init__`: one is made for every part of every micro batch."""
    copy = object.__new__(type(table))
    copy.__dict__.update(columns)
    return copy


def _changed(column: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return column.changed(change) if isinstance(column, MissingColumn) else change(column)


def group_sum(samples: Samples, per_sample: Tensor) -> Tensor:
    """[S] -> [S]: the sum over each sample's group, the samples of its problem."""
    num_groups = int(samples.group.max()) + 1 if len(samples) else 0
    return per_sample.new_zeros(num_groups).index_add(0, samples.group, per_sample)[samples.group]


def group_size(samples: Samples) -> Tensor:
    """[S]: the size of each sample's group in this update."""
    return group_sum(samples, samples.reward.new_ones(len(samples)))


def group_mean(samples: Samples, per_sample: Tensor) -> Tensor:
    """[S] -> [S]: the mean over each sample's group."""
    return group_sum(samples, per_sample) / group_size(samples)
