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
    reads_last: bool = False  # the last token predicts nothing, but a scalar head may read the state behind it

    @property
    def num_tokens(self) -> int:
        """Trained tokens."""
        return int(self.samples.counts.sum())

    @property
    def num_input_tokens(self) -> int:
        """Tokens that go through the model, prompts included."""
        return sum(len(sample.prompt_ids) + len(sample.ids) for sample in self.rows)

    def micros(self, budget: int, together: bool = False) -> Iterator[Micro]:
        """Micro batches of at most `budget` padded tokens (one piece may exceed it), like lengths together.

        A piece is a sample, or with `together` all samples of a problem.
        """
        widths = [len(sample.prompt_ids) + len(sample.ids) for sample in self.rows]
        pieces: dict[int, list[int]] = {}
        for index, group in enumerate(self.samples.group.tolist()):
            pieces.setdefault(group if together else index, []).append(index)
        members: list[int] = []
        for piece in sorted(pieces.values(), key=lambda piece: max(widths[i] for i in piece)):
            if members and max(widths[i] for i in piece) * (len(members) + len(piece)) > budget:
                yield self._micro(members)
                members = []
            members = members + piece
        yield self._micro(members)

    def _micro(self, members: Sequence[int]) -> Micro:
        """The samples `members` as one padded batch with its token columns."""
        width = max(len(self.rows[i].prompt_ids) + len(self.rows[i].ids) for i in members)
        trained = torch.tensor([int(source) for source in self.sources])
        unread = 0 if self.reads_last else 1
        input_ids = torch.zeros(len(members), max(width - unread, 1), dtype=torch.long)
        pieces = []  # per sample: row, sample, index in the response, source, target, behavior of its trained tokens
        for row, member in enumerate(members):
            sample = self.rows[member]
            whole = sample.prompt_ids + sample.ids
            input_ids[row, : len(whole) - unread] = torch.tensor(whole[: len(whole) - unread], dtype=torch.long)
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
            tokens=Tokens(owner, source, index, behavior, anchor=nothing, advantage=nothing, sampler=behavior),
        )


def pack(
    groups: Sequence[Sequence[Sample]],
    sources: frozenset[Source],
    temperature: float = 1.0,
    memories: Sequence[float] | None = None,
    reads_last: bool = False,
) -> Update | None:
    """The update made of each problem's kept samples, or None when nothing is left to train on.

    `temperature` is what rollouts were sampled at (greedy counts as 1). Only tokens of `sources` are trained.
    `memories` is what the method knows of each problem; `reads_last`: a scalar head reads the last token too.
    """
    rows = [sample for group in groups for sample in group]
    if not rows:
        return None
    known = [number for group, number in zip(groups, memories or [0.0] * len(groups), strict=True) for _ in group]
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
        memory=torch.tensor(known, dtype=torch.float32),
        draw=torch.tensor([sample.draw for sample in rows], dtype=torch.float32),
    )
    return Update(samples, rows, sources, temperature or 1.0, reads_last)
