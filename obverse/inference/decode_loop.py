"""The decoding loop of the embedded sampler: completions with the same tokens so far share a row of the cache."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from obverse.inference.distribution import sample_tokens, uniform_numbers
from obverse.inference.kv_cache import SlotCache, prefill_cache
from obverse.inference.stops import Stops
from obverse.inference.types import SamplingParams, SamplingRequest

# Free rows are filled with the last ones, one copy each, once they are this share of all rows.
MAX_FREE_SHARE = 0.1
# Prompts wait, to be computed together, until this share of `max_rows` completions has ended.
MIN_VACANT_SHARE = 0.1


@dataclass(eq=False)
class PartialCompletion:
    """A completion while it is sampled. `row` is its row of the cache, `uniforms_row` its row of uniform numbers."""

    request: int
    number: int  # among the completions of the request
    seed: int
    row: int = 0
    uniforms_row: int = 0
    ids: list[int] = field(default_factory=list)
    behavior: list[float] = field(default_factory=list)
    stopped: bool = False


def generate(
    model: Any,
    num_layers: int,
    max_rows: int,
    requests: Sequence[SamplingRequest],
    params: SamplingParams,
    decode: Callable[[Sequence[int]], str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[PartialCompletion]:
    """Sample the completions of `requests`, at most `max_rows` at once; returned in the order of requests and seeds."""
    completions = [
        PartialCompletion(index, number, seed)
        for index, request in enumerate(requests)
        for number, seed in enumerate(request.seeds)
    ]
    # prompts of similar length are computed together, with little padding
    waiting = deque(sorted(completions, key=lambda item: (len(requests[item.request].prompt), item.request)))
    batch = _DecodeBatch(model, num_layers, max_rows, params)
    stops, num_tokens, started = Stops(params, decode), 0, time.monotonic()
    while waiting or batch.active:
        if len(batch.active) <= (1 - MIN_VACANT_SHARE) * max_rows:
            num_new = min(max_rows - len(batch.active), len(waiting))
            batch.add([waiting.popleft() for _ in range(num_new)], requests)
        num_tokens += len(batch.active)
        batch.sample(stops)
        if progress:
            progress(len(completions) - len(waiting) - len(batch.active))
        if stops.is_over_budget(num_tokens, time.monotonic() - started):
            break
        if batch.active:
            batch.forward()
    return completions


class _DecodeBatch:
    """The completions that are being sampled, the rows of the cache they read, and the next logits of each row."""

    def __init__(self, model: Any, num_layers: int, max_rows: int, params: SamplingParams) -> None:
        self.model, self.num_layers, self.params = model, num_layers, params
        self.cache = SlotCache(num_layers)
        self.active: list[PartialCompletion] = []
        self.logits: Tensor | None = None  # [rows, V]
        self.uniforms = torch.zeros(max_rows, params.max_tokens, dtype=torch.float64)

    def add(self, completions: list[PartialCompletion], requests: Sequence[SamplingRequest]) -> None:
        """Compute the prompts of new completions, one row per request."""
        if not completions:
            return
        used = {item.uniforms_row for item in self.active}
        unused = [row for row in range(len(self.uniforms)) if row not in used][: len(completions)]
        seeds = [item.seed for item in completions]
        self.uniforms[unused] = uniform_numbers(seeds, self.params.max_tokens, self.uniforms.device)
        first = len(self.cache.lengths)
        new_rows: dict[int, int] = {}  # request -> its row among the new ones
        for item, uniforms_row in zip(completions, unused, strict=True):
            item.uniforms_row = uniforms_row
            item.row = first + new_rows.setdefault(item.request, len(new_rows))
        logits = self._prefill([requests[index].prompt.token_ids for index in new_rows])
        self.logits = logits if self.logits is None else torch.cat([self.logits, logits])
        self.active += completions

    def sample(self, stops: Stops) -> None:
        """Sample one more token of every active completion; those that end with it are no longer active."""
        assert self.logits is not None
        uniforms = self.uniforms[[item.uniforms_row for item in self.active], [len(item.ids) for item in self.active]]
        rows = torch.tensor([item.row for item in self.active], device=self.logits.device)
        tokens, logp = sample_tokens(self.logits, self.params, uniforms.to(self.logits.device), rows)
        for item, token, score in zip(self.active, tokens.tolist(), logp.tolist(), strict=True):
            item.ids.append(token)
            item.behavior.append(score)
            item.stopped = stops.stop(item.ids)
        self.active = [item for item in self.active if not item.stopped and len(item.ids) < self.params.max_tokens]
        if not self.active:
            self.cache, self.logits = SlotCache(self.num_layers), None

    def forward(self) -> None:
        """Run the model on the tokens just sampled, one row per distinct history."""
        tokens = self._assign_rows()
        mask, position_ids = self.cache.next_position()
        device = self.model.device
        self.logits = self.model(
            input_ids=torch.tensor(tokens, device=device)[:, None],
            attention_mask=None if mask is None else mask.to(device),
            position_ids=position_ids.to(device),
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        self.cache.advance()

    def _assign_rows(self) -> list[int]:
        """Give every distinct history of tokens one row of the cache; returns the next token of each row.

        The first completion of a row keeps it. A completion that sampled another token continues in a copy of the row.
        Free rows, whose completions have ended, are used for copies, and filled with the last rows when they are many.
        """
        next_token: dict[int, int] = {}  # row -> the token that its first completion sampled
        for item in self.active:
            next_token.setdefault(item.row, item.ids[-1])
        free_rows = deque(row for row in range(len(self.cache.lengths)) if row not in next_token)
        copies: dict[int, int] = {}  # target row -> source row
        num_rows = self._branch(next_token, free_rows, copies)
        if len(free_rows) >= MAX_FREE_SHARE * num_rows:
            num_rows = self._compact(next_token, free_rows, copies, num_rows)
        for row in free_rows:
            self.cache.lengths[row] = 1
        self.cache.copy_rows(list(copies.values()), list(copies), num_rows)
        return [next_token.get(row, 0) for row in range(num_rows)]

    def _branch(self, next_token: dict[int, int], free_rows: deque[int], copies: dict[int, int]) -> int:
        """Move completions that sampled another token than their row's to copies; returns the number of rows."""
        num_rows = len(self.cache.lengths)
        row_of_history = {(row, token): row for row, token in next_token.items()}
        for item in self.active:
            history = (item.row, item.ids[-1])
            if history not in row_of_history:
                row = free_rows.popleft() if free_rows else num_rows
                num_rows = max(num_rows, row + 1)
                copies[row] = item.row
                next_token[row] = item.ids[-1]
                row_of_history[history] = row
            item.row = row_of_history[history]
        return num_rows

    def _compact(self, next_token: dict[int, int], free_rows: deque[int], copies: dict[int, int], num_rows: int) -> int:
        """Move the last rows to the free ones, until no row is free; returns the number of rows."""
        new_row: dict[int, int] = {}
        while free_rows:
            num_rows -= 1  # the last row goes away
            if free_rows[-1] == num_rows:
                free_rows.pop()
            else:
                row = free_rows.popleft()
                copies[row] = num_rows
                next_token[row] = next_token[num_rows]
                new_row[num_rows] = row
        for item in self.active:
            item.row = new_row.get(item.row, item.row)
        return num_rows

    def _prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Append rows with these prompts to the cache; returns their last logits [P, V]."""
        width, device = max(map(len, prompts)), self.model.device
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        cache = prefill_cache(self.num_layers)
        logits = self.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0).to(device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self.cache.append_rows(cache, [len(prompt) for prompt in prompts])
        return logits
