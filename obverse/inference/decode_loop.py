"""The loop of the embedded sampler: completions that share a history share a row, and rows come, split and go."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from obverse.inference.distribution import draw, uniforms
from obverse.inference.kv_cache import Slots, blank
from obverse.inference.stops import Stops
from obverse.inference.types import SamplingParams, SamplingRequest

# Filling a hole copies one row: it pays once this share of the rows is holes.
HOLE_SHARE = 0.1
# Prompts are computed together, once this share of the places is free.
FREE_SHARE = 0.1


@dataclass(eq=False)
class Member:
    """A completion being written. `row` is where the model reads its history, `place` where its luck stands."""

    request: int
    number: int  # among the order's completions
    seed: int
    row: int = 0
    place: int = 0
    ids: list[int] = field(default_factory=list)
    behavior: list[float] = field(default_factory=list)
    stopped: bool = False


def write(
    model: Any,
    num_layers: int,
    max_rows: int,
    requests: Sequence[SamplingRequest],
    params: SamplingParams,
    decode: Callable[[Sequence[int]], str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Member]:
    """The completions of `orders`, in order: sampled, at most `max_rows` at once, with the arguments of HFSampler."""
    members = [Member(index, n, seed) for index, request in enumerate(requests) for n, seed in enumerate(request.seeds)]
    # prompts of like length together: little padding
    waiting = deque(sorted(members, key=lambda each: (len(requests[each.request].prompt), each.request)))
    table = _Table(model, num_layers, max_rows, params)
    caps, num_tokens, started = Stops(params, decode), 0, time.monotonic()
    while waiting or table.alive:
        if len(table.alive) <= (1 - FREE_SHARE) * max_rows:
            table.seat([waiting.popleft() for _ in range(min(max_rows - len(table.alive), len(waiting)))], requests)
        num_tokens += len(table.alive)
        table.draw(caps)
        if progress:
            progress(len(members) - len(waiting) - len(table.alive))
        if caps.spent(num_tokens, time.monotonic() - started):
            break
        if table.alive:
            table.advance()
    return members


class _Table:
    """The completions being written, the rows of the cache they read, and the logits that follow each row."""

    def __init__(self, model: Any, num_layers: int, max_rows: int, params: SamplingParams) -> None:
        self.model, self.num_layers, self.params = model, num_layers, params
        self.cache = Slots(num_layers)
        self.alive: list[Member] = []
        self.logits: Tensor | None = None  # [rows, V]
        self.uniforms = torch.zeros(max_rows, params.max_tokens, dtype=torch.float64)

    def seat(self, arrived: list[Member], requests: Sequence[SamplingRequest]) -> None:
        """Compute the prompts of those who arrive, one row each, and let them draw next."""
        if not arrived:
            return
        taken = {each.place for each in self.alive}
        free = [place for place in range(len(self.uniforms)) if place not in taken][: len(arrived)]
        self.uniforms[free] = uniforms([each.seed for each in arrived], self.params.max_tokens, self.uniforms.device)
        first = len(self.cache.lengths)
        rows: dict[int, int] = {}  # order -> its row among the new ones
        for each, place in zip(arrived, free, strict=True):
            each.place, each.row = place, first + rows.setdefault(each.request, len(rows))
        prompts = [list(requests[index].prompt.token_ids) for index in rows]
        logits = self._prefill(prompts)
        self.logits = logits if self.logits is None else torch.cat([self.logits, logits])
        self.alive += arrived

    def draw(self, stops: Stops) -> None:
        """One more token for every completion; those that end with it leave."""
        assert self.logits is not None
        uniforms = self.uniforms[[each.place for each in self.alive], [len(each.ids) for each in self.alive]]
        rows = torch.tensor([each.row for each in self.alive], device=self.logits.device)
        chosen, logp = draw(self.logits, self.params, uniforms.to(self.logits.device), rows)
        for each, token, score in zip(self.alive, chosen.tolist(), logp.tolist(), strict=True):
            each.ids.append(token)
            each.behavior.append(score)
            each.stopped = stops.stop(each.ids)
        self.alive = [each for each in self.alive if not each.stopped and len(each.ids) < self.params.max_tokens]
        if not self.alive:
            self.cache, self.logits = Slots(self.num_layers), None

    def advance(self) -> None:
        """Give every distinct history a row, and read the tokens just drawn."""
        tokens = self._settle()
        mask, places = self.cache.ready()
        device = self.model.device
        self.logits = self.model(
            input_ids=torch.tensor(tokens, device=device)[:, None],
            attention_mask=None if mask is None else mask.to(device),
            position_ids=places.to(device),
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        self.cache.grow()

    def _settle(self) -> list[int]:
        """Move completions to rows, one per history, and return each row's new token.

        The first to go on from a row keeps it; who drew another token takes a copy of it, to a hole where there is one.
        """
        row_of_token: dict[tuple[int, int], int] = {}
        kept: dict[int, int] = {}  # row -> its new token
        for each in self.alive:
            if kept.setdefault(each.row, each.ids[-1]) == each.ids[-1]:
                row_of_token[each.row, each.ids[-1]] = each.row
        num_rows = len(self.cache.lengths)
        free_rows = deque(row for row in range(num_rows) if row not in kept)
        sources: list[int] = []
        targets: list[int] = []

        def copy(source: int, target: int) -> int:
            sources.append(source)
            targets.append(target)
            return target

        for each in self.alive:
            key = (each.row, each.ids[-1])
            if key not in row_of_token:
                row_of_token[key] = copy(each.row, free_rows.popleft() if free_rows else num_rows)
                kept[row_of_token[key]] = key[1]
                num_rows = max(num_rows, row_of_token[key] + 1)
            each.row = row_of_token[key]
        if len(free_rows) >= HOLE_SHARE * num_rows:
            moved: dict[int, int] = {}
            while free_rows:
                num_rows -= 1
                if free_rows[-1] == num_rows:
                    free_rows.pop()
                else:
                    moved[num_rows] = copy(num_rows, free_rows.popleft())
                    kept[moved[num_rows]] = kept[num_rows]
            for each in self.alive:
                each.row = moved.get(each.row, each.row)
        for hole in free_rows:
            self.cache.lengths[hole] = 1
        self.cache.move(sources, targets, num_rows)
        return [kept.get(row, 0) for row in range(num_rows)]

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """The last logits [P, V] of new rows that hold these prompts."""
        width, device = max(map(len, prompts)), self.model.device
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        filled = blank(self.num_layers)
        logits = self.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0).to(device),
            past_key_values=filled,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self.cache.take(filled, [len(prompt) for prompt in prompts])
        return logits
