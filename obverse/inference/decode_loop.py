"""The decoding loop over a slot cache: completions with the same tokens so far share a row of the cache."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from obverse.inference.distribution import uniform_numbers
from obverse.inference.partial import PartialCompletion, SamplingCall, partial_completions, sample_next
from obverse.inference.slot_cache import SlotCache
from obverse.inference.stops import Stops
from obverse.inference.types import SamplingParams, SamplingRequest
from obverse.models.cache_layers import accepts, cache_argument, full_cache, native_layers

# Free rows are filled with the last ones, one copy each, once they are this share of all rows.
MAX_FREE_SHARE = 0.1
# Prompts wait, to be computed together, until this share of `max_rows` completions has ended.
MIN_VACANT_SHARE = 0.1


def generate(call: SamplingCall, pads: bool) -> list[PartialCompletion]:
    """Sample the completions of a call; returned in the order of its requests and seeds.

    With `pads`, prompts of unequal lengths are computed together, padded on the left; without, those of one length are.
    """
    requests, params, max_rows = call.requests, call.params, call.max_rows
    completions = partial_completions(requests)
    # prompts of similar length are computed together, with little padding
    waiting = deque(sorted(completions, key=lambda item: (len(requests[item.request].prompt), item.request)))
    batch = _DecodeBatch(call.model, pads, max_rows, params)
    stops, num_tokens, started = Stops(params, call.decode), 0, time.monotonic()
    while waiting or batch.active:
        if len(batch.active) <= (1 - MIN_VACANT_SHARE) * max_rows:
            num_new = min(max_rows - len(batch.active), len(waiting))
            batch.add([waiting.popleft() for _ in range(num_new)], requests)
        num_tokens += len(batch.active)
        batch.sample(stops)
        call.report(len(completions) - len(waiting) - len(batch.active))
        if stops.is_over_budget(num_tokens, time.monotonic() - started):
            break
        if batch.active:
            batch.forward()
    return completions


class _DecodeBatch:
    """The completions that are being sampled, the rows of the cache they read, and the next logits of each row."""

    def __init__(self, model: Any, pads: bool, max_rows: int, params: SamplingParams) -> None:
        self.model, self.pads, self.params = model, pads, params
        self.native, self.takes_positions = native_layers(model), accepts(model, "position_ids")
        self.cache = SlotCache(self.native)
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
        prompts = [requests[index].prompt.token_ids for index in new_rows]
        batches = [prompts] if self.pads else [list(equal) for _, equal in groupby(prompts, len)]
        logits = [*([] if self.logits is None else [self.logits]), *map(self._prefill, batches)]
        self.logits = logits[0] if len(logits) == 1 else torch.cat(logits)
        self.active += completions

    def sample(self, stops: Stops) -> None:
        """Sample one more token of every active completion; those that end with it are no longer active."""
        assert self.logits is not None
        self.active = sample_next(self.active, self.logits, self.uniforms, self.params, stops)
        if not self.active:
            self.cache, self.logits = SlotCache(self.native), None

    def forward(self) -> None:
        """Run the model on the tokens just sampled, one row per distinct history."""
        tokens = self._assign_rows()
        mask, position_ids = self.cache.next_position()
        ids = torch.tensor(tokens)[:, None]
        self.logits = forward(self.model, self.cache, ids, mask, position_ids if self.takes_positions else None)
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
        cache = full_cache(self.model)
        logits = prefill(self.model, cache, prompts, self.takes_positions)
        self.cache.append_rows(cache, [len(prompt) for prompt in prompts])
        return logits


def prefill(model: Any, cache: Cache, prompts: Sequence[Sequence[int]], takes_positions: bool = True) -> Tensor:
    """Compute prompts, padded on the left where their lengths differ, into an empty cache; last logits [P, V]."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0) if takes_positions else None
    return forward(model, cache, ids, mask, position_ids, logits_to_keep=1)


def forward(
    model: Any, cache: Any, ids: Tensor, mask: Tensor | None, position_ids: Tensor | None, **options: Any
) -> Tensor:
    """The logits [rows, V] after the last of the tokens `ids` [rows, n], which are added to the cache.

    `mask` [rows, length] covers the cached positions too; None if nothing is masked. `position_ids` [rows, n] is None
    for a model without positions.
    """
    device = model.device
    positions: Mapping[str, Tensor] = {} if position_ids is None else {"position_ids": position_ids.to(device)}
    logits: Tensor = model(
        input_ids=ids.to(device),
        attention_mask=None if mask is None else mask.to(device),
        use_cache=True,
        **{cache_argument(model): cache},
        **positions,
        **options,
    ).logits[:, -1]
    return logits
