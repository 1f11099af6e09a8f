"""Completions while they are sampled, and one more token for each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from obverse.inference.distribution import sample_tokens
from obverse.inference.stops import Stops
from obverse.inference.types import SamplingParams, SamplingRequest


@dataclass(eq=False)
class PartialCompletion:
    """A completion while it is sampled. `row` is its row of logits and cache, `uniforms_row` its uniform numbers'."""

    request: int
    number: int  # among the completions of the request
    seed: int
    row: int = 0
    uniforms_row: int = 0
    ids: list[int] = field(default_factory=list)
    behavior: list[float] = field(default_factory=list)
    stopped: bool = False


@dataclass(frozen=True)
class SamplingCall:
    """What a decoding loop gets: the model, the requests, and the options of `HFSampler`.

    At most `max_rows` completions are decoded at once. `decode` turns ids into text, for stop strings; `progress`
    receives the number of finished completions.
    """

    model: Any
    max_rows: int
    requests: Sequence[SamplingRequest]
    params: SamplingParams
    decode: Callable[[Sequence[int]], str] | None = None
    progress: Callable[[int], None] | None = None

    def report(self, num_finished: int) -> None:
        """Report the number of finished completions, if anything receives it."""
        if self.progress is not None:
            self.progress(num_finished)


def partial_completions(requests: Sequence[SamplingRequest]) -> list[PartialCompletion]:
    """An empty completion for each seed, in the order of requests and seeds."""
    return [
        PartialCompletion(index, number, seed)
        for index, request in enumerate(requests)
        for number, seed in enumerate(request.seeds)
    ]


def sample_next(
    active: Sequence[PartialCompletion], logits: Tensor, uniforms: Tensor, params: SamplingParams, stops: Stops
) -> list[PartialCompletion]:
    """Sample one more token of every active completion; returns those that do not end with it.

    `logits` [rows, V] are those of `PartialCompletion.row`, `uniforms` [rows, max_tokens] of `uniforms_row`.
    """
    numbers = uniforms[[item.uniforms_row for item in active], [len(item.ids) for item in active]]
    rows = torch.tensor([item.row for item in active], device=logits.device)
    tokens, logp = sample_tokens(logits, params, numbers.to(logits.device), rows)
    for item, token, score in zip(active, tokens.tolist(), logp.tolist(), strict=True):
        item.ids.append(token)
        item.behavior.append(score)
        item.stopped = stops.stop(item.ids)
    return [item for item in active if not item.stopped and len(item.ids) < params.max_tokens]
