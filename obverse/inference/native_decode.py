"""The decoding loop over a model's own cache, for models whose layers keep what a slot cache has no buffers for.

Completions of prompts of one length are decoded together, without padding: each prompt is computed once, its row of
the cache is repeated for its completions, and the rows of completions that have ended are dropped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from obverse.inference.distribution import uniform_numbers
from obverse.inference.partial import PartialCompletion, SamplingCall, partial_completions, sample_next
from obverse.inference.stops import Stops
from obverse.inference.types import SamplingParams, SamplingRequest
from obverse.models.cache_layers import accepts
from obverse.models.prompt_cache import state_tensors, with_rows

# Under which a forward pass takes and returns its cache.
CACHES = ("past_key_values", "cache_params", "state")


class NativeCache:
    """What a model keeps between forward passes over rows of one length; all tokens are read again without `cached`."""

    def __init__(self, model: Any, cached: bool = True) -> None:
        self.model, self.cached = model, cached
        self.name, self.cache, self.num_rows, self.length = "", None, 0, 0
        self.read = torch.zeros(0, dtype=torch.long)  # all tokens so far, without a cache; [rows, n]

    def forward(self, ids: Tensor) -> Tensor:
        """The logits [rows, V] after the next tokens of every row, `ids` [rows, n]."""
        device = self.model.device
        options: dict[str, Any] = {"logits_to_keep": 1} if accepts(self.model, "logits_to_keep") else {}
        if not self.cached:
            self.read = torch.cat([self.read.view(len(ids), -1), ids], dim=1)
            logits: Tensor = self.model(input_ids=self.read.to(device), use_cache=False, **options).logits[:, -1]
            return logits
        if accepts(self.model, "position_ids"):  # some caches do not know their length
            positions = torch.arange(self.length, self.length + ids.shape[1], device=device)
            options["position_ids"] = positions.expand(len(ids), -1)  # a cache of positions has as many rows as keys
        self.num_rows, self.length = len(ids), self.length + ids.shape[1]
        if self.cache is not None:
            options[self.name] = self.cache
        outputs = self.model(input_ids=ids.to(device), use_cache=True, **options)
        self.name = next((name for name in CACHES if getattr(outputs, name, None) is not None), "")
        if not self.name:
            raise ValueError("a forward pass returns no cache")
        self.cache, logits = getattr(outputs, self.name), outputs.logits[:, -1]
        return logits

    def select(self, rows: list[int]) -> None:
        """Keep these rows, in this order, which may repeat some."""
        if self.cached:
            indices = torch.tensor(rows, device=self.model.device)
            self.cache = with_rows(self.cache, state_tensors(self.cache), indices, self.num_rows)
        else:
            self.read = self.read[torch.tensor(rows)]


def generate(call: SamplingCall, selects: bool, cached: bool) -> list[PartialCompletion]:
    """Sample the completions of a call; returned in the order of its requests and seeds.

    Without `selects`, completions are decoded one by one. `cached` is that of NativeCache.
    """
    requests, params = call.requests, call.params
    completions = partial_completions(requests)
    stops, num_tokens, num_done, started = Stops(params, call.decode), 0, 0, time.monotonic()
    for members in _cohorts(completions, requests, call.max_rows if selects else 1):
        cohort = _Cohort(NativeCache(call.model, cached), members, requests, params)
        while cohort.active:
            num_active = len(cohort.active)
            cohort.sample(stops)
            num_tokens, num_done = num_tokens + num_active, num_done + num_active - len(cohort.active)
            call.report(num_done)
            if stops.is_over_budget(num_tokens, time.monotonic() - started):
                return completions
            if cohort.active:
                cohort.forward()
    return completions


class _Cohort:
    """Completions that are decoded together, each in its own row after the first token, and their next logits."""

    def __init__(
        self,
        cache: NativeCache,
        members: list[PartialCompletion],
        requests: Sequence[SamplingRequest],
        params: SamplingParams,
    ) -> None:
        self.cache, self.active, self.params = cache, members, params
        self.uniforms = uniform_numbers([item.seed for item in members], params.max_tokens, torch.device("cpu"))
        prompts = {item.request: requests[item.request].prompt.token_ids for item in members}
        row_of_request = {request: row for row, request in enumerate(prompts)}
        for number, item in enumerate(members):
            item.row, item.uniforms_row = row_of_request[item.request], number
        self.num_rows = len(prompts)
        self.logits = cache.forward(torch.tensor(list(prompts.values())))  # [rows, V]

    def sample(self, stops: Stops) -> None:
        """Sample one more token of every active completion; those that end with it are no longer active."""
        self.active = sample_next(self.active, self.logits, self.uniforms, self.params, stops)

    def forward(self) -> None:
        """Run the model on the tokens just sampled."""
        rows = [item.row for item in self.active]
        if rows != list(range(self.num_rows)):
            self.cache.select(rows)
        self.num_rows = len(rows)
        for row, item in enumerate(self.active):
            item.row = row
        self.logits = self.cache.forward(torch.tensor([[item.ids[-1]] for item in self.active]))


def _cohorts(
    completions: Sequence[PartialCompletion], requests: Sequence[SamplingRequest], max_rows: int
) -> Iterator[list[PartialCompletion]]:
    """Completions of prompts of one length, at most `max_rows` at once, those of a prompt together."""

    def length(item: PartialCompletion) -> int:
        return len(requests[item.request].prompt)

    for _, equal in groupby(sorted(completions, key=lambda item: (length(item), item.request)), length):
        members = list(equal)
        for start in range(0, len(members), max_rows):
            yield members[start : start + max_rows]
