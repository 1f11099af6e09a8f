"""Packs samples into an update (tables of tokens and samples) and splits it into padded micro batches."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from obverse.estimator.tables import MISSING, Samples, Tokens
from obverse.models.shared_prefix import PromptBatch, moved
from obverse.types import GradeResult, ModelInput, Sample, Source


@dataclass(frozen=True)
class Micro:
    """Whole samples of an update as one padded batch for a forward pass.

    Example (prompt "ab", response "cd"): input_ids = [[a, b, c, d]], row = [0, 0], position = [1, 2], target = [c, d]:
    the hidden state at `position` predicts `target`.
    """

    input_ids: Tensor  # [B, L] right-padded; causal attention never attends to padding
    row: Tensor  # [T] row of input_ids
    position: Tensor  # [T] column of input_ids whose hidden state predicts the token
    target: Tensor  # [T] the trained token
    temperature: Tensor  # [T] sampling temperature of the token; 1 for tokens that the policy did not sample
    tokens: Tokens  # [T] columns
    prompts: PromptBatch | None = (
        None  # if set, input_ids hold responses only, and position -1 is the prompt's last token
    )
    prompt_row: Tensor | None = None  # [B] the row of each response's prompt
    is_padding: bool = False  # run only so that all ranks run equally many; has no gradient
    lengths: tuple[
        int, ...
    ] = ()  # tokens of each row, prompt and response, including a last token that is not run; [B]
    teacher: Micro | None = None  # the same trained tokens behind the prompts of a divergence's teacher

    def to(self, device: torch.device) -> Micro:
        """The micro batch on another device; tensors already there are not copied."""
        tokens = self.tokens.map_columns(lambda column: moved(column, device))
        columns = ((name, value) for name, value in vars(self).items() if isinstance(value, Tensor))
        tensors: dict[str, Any] = {name: moved(value, device) for name, value in columns}
        prompts, teacher = self.prompts and self.prompts.to(device), self.teacher and self.teacher.to(device)
        return replace(self, tokens=tokens, prompts=prompts, teacher=teacher, **tensors)


@dataclass(frozen=True)
class Update:
    """The data of one optimizer step: the table of samples [S] and the samples themselves."""

    samples: Samples
    rows: list[Sample]
    sources: frozenset[Source]
    temperature: float
    reads_last: bool = False  # run the last token too: a scalar head reads its hidden state

    @property
    def num_tokens(self) -> int:
        """Trained tokens."""
        return int(self.samples.counts.sum())

    @property
    def num_input_tokens(self) -> int:
        """Tokens of all samples, prompts included."""
        return sum(sample.num_tokens for sample in self.rows)

    def micros(
        self,
        budget: int,
        together: bool = False,
        shared: bool = False,
        needed: Collection[int] | None = None,
        pads_prompts: bool = True,
        with_teacher: bool = False,
    ) -> Iterator[Micro]:
        """Micro batches of at most `budget` padded tokens (one piece may exceed it), like lengths together.

        A piece is one sample, or with `together` all samples of a problem. With `shared`, micro batches hold responses
        only and refer to a batch of prompts, which consecutive ones share. Without `pads_prompts`, all prompts of such
        a batch have equal lengths. `needed` (None: all) selects the samples. `with_teacher`: each sample counts with
        the longer of its own and the teacher's prompt.
        """
        widths = [sample.num_tokens_with_teacher if with_teacher else sample.num_tokens for sample in self.rows]
        members = [i for i in range(len(self.rows)) if needed is None or i in needed]
        if not shared:
            for piece in self._filled(members, budget, together, widths):
                yield self._micro(piece, None, {})
            return
        problems: dict[ModelInput, list[int]] = {}
        for index in members:
            problems.setdefault(self.rows[index].prompt, []).append(index)
        for block in blocks(sorted(problems, key=len), budget, pads_prompts):
            prompt_rows = {prompt: row for row, prompt in enumerate(block)}
            prompts = PromptBatch.of(block)
            inside = [index for prompt in block for index in problems[prompt]]
            for piece in self._filled(inside, budget, together, widths):
                yield self._micro(piece, prompts, prompt_rows)

    @cached_property
    def behind_teacher_prompts(self) -> Update:
        """This update with the prompt that the teacher reads in place of each sample's own; rows keep their indices.

        A sample that the method reads no teacher of keeps its own. Raises ValueError if no sample has a teacher prompt.
        """
        if all(sample.teacher_prompt is None for sample in self.rows):
            raise ValueError("no sample has a prompt of the teacher: the method has none, or no context for it")
        return replace(self, rows=[replace(row, prompt=row.teacher_prompt or row.prompt) for row in self.rows])

    def teacher_micro(self, micro: Micro, shares: bool = False, pads_prompts: bool = True) -> Micro:
        """The trained tokens of a micro batch behind the teacher's prompts; on the CPU, `Micro.to` moves them.

        With `shares`, a prompt that several of its samples have is computed once; without `pads_prompts` only if all
        its prompts have equal lengths. The columns [T] have the order of those of `micro`; RuntimeError if not.
        """
        update, members = self.behind_teacher_prompts, torch.unique_consecutive(micro.tokens.sample).tolist()
        distinct = list(dict.fromkeys(update.rows[member].prompt for member in members))
        is_uniform = pads_prompts or len(set(map(len, distinct))) == 1
        if shares and len(distinct) < len(members) and is_uniform:
            batch = update._micro(members, PromptBatch.of(distinct), {prompt: i for i, prompt in enumerate(distinct)})
        else:
            batch = update._micro(members, None, {})
        for column in ("sample", "position"):
            if not torch.equal(getattr(batch.tokens, column), getattr(micro.tokens, column).cpu()):
                raise RuntimeError(f"the tokens behind the teacher's prompts have another {column} than the policy's")
        return replace(batch, is_padding=micro.is_padding)

    def padding(self) -> Micro:
        """The smallest micro batch of this update, its shortest sample, marked as padding for a rank with fewer."""
        trained = self.samples.counts.sum(-1).tolist()
        members = [index for index, number in enumerate(trained) if number > 0]
        shortest = min(members, key=lambda i: self.rows[i].num_tokens)
        return replace(self._micro([shortest], None, {}), is_padding=True)

    def _filled(
        self, members: Sequence[int], budget: int, together: bool, widths: Sequence[int]
    ) -> Iterator[list[int]]:
        """The samples `members`, of `widths` tokens, in batches of at most `budget` padded tokens, by rising length."""
        group = self.samples.group.tolist()
        pieces: dict[int, list[int]] = {}
        for index in members:
            pieces.setdefault(group[index] if together else index, []).append(index)
        batch: list[int] = []
        for piece in sorted(pieces.values(), key=lambda piece: max(widths[i] for i in piece)):
            if batch and max(widths[i] for i in piece) * (len(batch) + len(piece)) > budget:
                yield batch
                batch = []
            batch = batch + piece
        if batch:
            yield batch

    def _micro(
        self, members: Sequence[int], prompts: PromptBatch | None, row_of_prompt: Mapping[ModelInput, int]
    ) -> Micro:
        """The samples `members` as one padded batch with its token columns.

        Columns are flat, one number per token: [N] for all tokens of the rows, then the response tokens only, then the
        trained ones, [T].
        """
        samples = [self.rows[member] for member in members]
        num_prompt = np.array([0 if prompts else len(sample.prompt) for sample in samples])
        length = num_prompt + [len(sample.ids) for sample in samples]
        num_read = length if self.reads_last else length - 1
        texts = (part for sample in samples for part in (() if prompts else sample.prompt.token_ids, sample.ids))
        ids = _column(texts, np.int64)
        row = np.arange(len(samples)).repeat(length)
        column = np.arange(len(ids)) - (length.cumsum() - length)[row]
        is_read = column < num_read[row]
        input_ids = np.zeros((len(samples), max(num_read.max(), 0 if prompts else 1)), np.int64)
        input_ids[row[is_read], column[is_read]] = ids[is_read]

        in_response = column >= num_prompt[row]
        row, column, target = row[in_response], column[in_response], ids[in_response]
        source = _column((sample.sources for sample in samples), np.int64)
        behavior = _column((sample.behavior for sample in samples), np.float64)
        is_trained = np.isin(source, [int(trained) for trained in self.sources])
        row, column = row[is_trained], column[is_trained]
        sources = torch.from_numpy(source[is_trained])
        logps = torch.from_numpy(behavior[is_trained]).to(self.samples.reward.dtype)
        teacher = MISSING
        if all(sample.teacher is not None for sample in samples):
            scores = _column((sample.teacher or () for sample in samples), np.float64)
            teacher = torch.from_numpy(scores[is_trained]).to(logps.dtype)
        return Micro(
            input_ids=torch.from_numpy(input_ids),
            row=torch.from_numpy(row),
            position=torch.from_numpy(column - 1),
            target=torch.from_numpy(target[is_trained]),
            temperature=torch.where(is_sampled(sources), self.temperature, 1.0),
            tokens=Tokens(
                sample=torch.from_numpy(np.array(members)[row]),
                source=sources,
                position=torch.from_numpy(column - num_prompt[row]),
                behavior=logps,
                sampler=logps,
                teacher=teacher,
            ),
            prompts=prompts,
            prompt_row=torch.tensor([row_of_prompt[sample.prompt] for sample in samples]) if prompts else None,
            lengths=tuple(sample.num_tokens for sample in samples),
        )


def is_sampled(sources: Tensor) -> Tensor:
    """bool [T]: the tokens that a policy of this run sampled, now or in an earlier step."""
    sampled = [int(source) for source in Source if source.is_sampled]
    return torch.isin(sources, torch.tensor(sampled, device=sources.device))


def _column(parts: Iterable[Iterable[float]], dtype: Any) -> NDArray[Any]:
    """The numbers of all parts, one after another; [N]."""
    return np.fromiter(chain.from_iterable(parts), dtype)


def blocks(prompts: Sequence[ModelInput], budget: int, pads: bool = True) -> Iterator[list[ModelInput]]:
    """Prompts, by rising length, in blocks of at most `budget` padded tokens (one prompt may exceed it).

    Without `pads`, the prompts of a block have equal lengths.
    """
    block: list[ModelInput] = []
    for prompt in prompts:
        is_mixed = bool(block) and len(prompt) != len(block[0])
        if block and (len(prompt) * (len(block) + 1) > budget or (is_mixed and not pads)):
            yield block
            block = []
        block = [*block, prompt]
    if block:
        yield block


def pack(
    groups: Sequence[Sequence[Sample]],
    sources: frozenset[Source],
    temperature: float = 1.0,
    memories: Sequence[float] | None = None,
    reads_last: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Update | None:
    """The update of each problem's selected samples; None without samples.

    `temperature` is that of sampled rollouts (0, greedy, counts as 1). Only tokens of `sources` are trained.
    `memories` has the method's stored number per problem (None: the method stores nothing). With `reads_last` the last
    token of a row is run too, for a scalar head. `dtype` is the type of columns with real numbers.
    """
    rows = [sample for group in groups for sample in group]
    if not rows:
        return None
    memory = None
    if memories is not None:
        memory = [number for group, number in zip(groups, memories, strict=True) for _ in group]
    group_of = [index for index, group in enumerate(group for group in groups if group) for _ in group]
    counts = [[sample.sources.count(source) if source in sources else 0 for source in Source] for sample in rows]
    samples = Samples(
        reward=torch.tensor([sample.reward for sample in rows], dtype=dtype),
        correct=torch.tensor([sample.correct for sample in rows]),
        group=torch.tensor(group_of),
        truncated=torch.tensor([sample.finish == "length" for sample in rows]),
        counts=torch.tensor(counts, dtype=torch.long),
        memory=MISSING if memory is None else torch.tensor(memory, dtype=dtype),
        uniform=torch.tensor([sample.uniform for sample in rows], dtype=dtype),
        **reward_columns([sample.grade for sample in rows], dtype),
    )
    return Update(samples, rows, sources, temperature or 1.0, reads_last)


def reward_columns(grades: Sequence[GradeResult], dtype: torch.dtype) -> dict[str, Tensor]:
    """The columns `rewards` and `reward_weights` of a table of samples; [S, K] each.

    K is the number of names of reward functions among the grades; the columns are in the order of the sorted names. A
    sample that a function did not grade has the reward NaN and the weight 0 there.
    """
    names = sorted({name for grade in grades for name in grade.rewards})
    rewards = [[grade.rewards.get(name, math.nan) for name in names] for grade in grades]
    weights = [[grade.weights.get(name, 1.0) if name in grade.rewards else 0.0 for name in names] for grade in grades]
    return {"rewards": torch.tensor(rewards, dtype=dtype), "reward_weights": torch.tensor(weights, dtype=dtype)}
