"""Groups become two tables: every count is final here, and here is the only padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from obverse.records import Sample, Source
from obverse.view import Samples, Tokens

NUM_SOURCES = len(Source)


@dataclass(frozen=True)
class Micro:
    """Some whole samples of an update, ready for one forward pass.

    Example (prompt "ab", response "cd"): input_ids = [[a, b, c, d]], row = [0, 0], position = [1, 2], target = [c, d]:
    the hidden state at `position` predicts `target`.
    """

    input_ids: Tensor  # [B, L] right-padded; padding is never attended to, for attention is causal
    row: Tensor  # [T] row of input_ids
    position: Tensor  # [T] where the prediction stands
    target: Tensor  # [T] the trained token
    temperature: Tensor  # [T] that the token was sampled at; 1 for tokens that others wrote
    tokens: Tokens  # [T] columns

    def to(self, device: torch.device) -> Micro:
        """The same on another device; without a copy where it is there already."""
        tokens = Tokens(**{name: column.to(device) for name, column in vars(self.tokens).items()})
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, tokens=tokens, **moved)


@dataclass(frozen=True)
class Update:
    """Everything one optimizer step trains on: the whole [S] table and the samples behind it."""

    samples: Samples
    rows: list[Sample]
    sources: frozenset[Source]
    temperature: float

    @property
    def num_tokens(self) -> int:
        """Trained tokens."""
        return int(self.samples.counts.sum())

    @property
    def num_input_tokens(self) -> int:
        """Tokens that go through the model, prompts included."""
        return sum(len(sample.prompt_ids) + len(sample.ids) for sample in self.rows)

    def micros(self, budget: int) -> Iterator[Micro]:
        """Micro batches of at most `budget` padded tokens (one sample may exceed it), like lengths together."""
        order = sorted(range(len(self.rows)), key=lambda i: len(self.rows[i].prompt_ids) + len(self.rows[i].ids))
        start = 0
        while start < len(order):
            end = start + 1
            while end < len(order):
                width = len(self.rows[order[end]].prompt_ids) + len(self.rows[order[end]].ids)
                if width * (end + 1 - start) > budget:
                    break
                end += 1
            yield self._micro(order[start:end])
            start = end

    def _micro(self, members: Sequence[int]) -> Micro:
        """The samples `members` as one padded batch with its token columns."""
        width = max(len(self.rows[i].prompt_ids) + len(self.rows[i].ids) for i in members)
        trained = torch.tensor([int(source) for source in self.sources])
        # the last token predicts nothing: it needs no place in the input
        input_ids = torch.zeros(len(members), max(width - 1, 1), dtype=torch.long)
        pieces = []  # per sample: row, sample, index in the response, source, target, behavior of its trained tokens
        for row, member in enumerate(members):
            sample = self.rows[member]
            whole = sample.prompt_ids + sample.ids
            input_ids[row, : len(whole) - 1] = torch.tensor(whole[:-1], dtype=torch.long)
            source = torch.tensor([int(each) for each in sample.sources])
            index = torch.isin(source, trained).nonzero()[:, 0]
            place = torch.tensor([[row], [member]]).expand(2, len(index))
            target, behavior = torch.tensor(sample.ids)[index], torch.tensor(sample.behavior)[index]
            pieces.append((*place, index, source[index], target, behavior))
        rows, owner, index, source, target, behavior = (torch.cat(column) for column in zip(*pieces, strict=True))
        starts = torch.tensor([len(self.rows[member].prompt_ids) for member in members])
        nothing = torch.zeros_like(behavior)
        return Micro(
            input_ids=input_ids,
            row=rows,
            position=starts[rows] + index - 1,
            target=target,
            temperature=torch.where(source == int(Source.ROLLOUT), self.temperature, 1.0),
            tokens=Tokens(owner, source, index, behavior, anchor=nothing, advantage=nothing),
        )


def pack(groups: Sequence[Sequence[Sample]], sources: frozenset[Source], temperature: float = 1.0) -> Update | None:
    """The update made of each problem's kept samples, or None when nothing is left to train on.

    `temperature` is what rollouts were sampled at (greedy counts as 1). Only tokens of `sources` are trained.
    """
    rows = [sample for group in groups for sample in group]
    if not rows:
        return None
    group_of = [index for index, group in enumerate(group for group in groups if group) for _ in group]
    counts = torch.zeros(len(rows), NUM_SOURCES, dtype=torch.long)
    for index, sample in enumerate(rows):
        for source in sample.sources:
            counts[index, int(source)] += source in sources
    samples = Samples(
        reward=torch.tensor([sample.reward for sample in rows], dtype=torch.float32),
        correct=torch.tensor([sample.correct for sample in rows]),
        group=torch.tensor(group_of),
        truncated=torch.tensor([sample.finish == "length" for sample in rows]),
        counts=counts,
    )
    return Update(samples, rows, sources, temperature or 1.0)
