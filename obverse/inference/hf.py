"""The embedded sampler, for decoders of transformers: tokens that completions have in common are computed once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from obverse.errors import ConfigError
from obverse.inference.conformance import decode_path
from obverse.inference.partial import SamplingCall
from obverse.inference.types import Completion, SamplingParams, SamplingRequest
from obverse.models.conformance import model_type
from obverse.models.position_limits import can_read, num_positions
from obverse.models.rope_frequencies import longest_sampled
from obverse.types import Finish


class HFSampler:
    """Samples from a transformers causal LM in this process.

    At most `max_rows` completions are decoded at once; memory grows with rows x length. `decode` turns ids into text,
    for stop strings; `mixed` computes matrix products in bfloat16; `scope` activates an adapter (`Policy.scope`).
    Raises ConfigError for a model that no decoding path samples as plain forward passes would (`decode_path`).
    """

    def __init__(
        self,
        model: Any,
        max_rows: int = 256,
        decode: Callable[[Sequence[int]], str] | None = None,
        mixed: bool = False,
        scope: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.model = model
        self.mixed = mixed
        self.scope = scope
        self.max_rows = max_rows
        self.decode = decode
        self.path = decode_path(model)
        self.longest = longest_sampled(model.config)
        self.step = 0
        self._num_positions: int | None = None

    @property
    def remark(self) -> str | None:
        """A line for the user if the model can only be sampled slowly; None otherwise."""
        if not self.path.is_slow:
            return None
        return (
            f"models of type {model_type(self.model)!r} are sampled {self.path.description}, which is slow: no faster "
            "way gives the log-probs of a plain forward pass (docs/models.md)"
        )

    def sync_weights(self, step: int) -> None:
        """See Sampler.sync_weights. The model is the policy itself, so only the label of completions changes."""
        self.step = step

    def check_length(self, length: int) -> None:
        """Raise ConfigError if rows of `length` tokens, prompt and completion, cannot be decoded with a cache.

        With LongRoPE and dynamic RoPE the frequencies of all positions depend on the length of the whole row, so cached
        keys are wrong once a row is longer than the model's original positions.
        """
        if self.longest is not None and length > self.longest:
            raise ConfigError(
                f"a prompt and its completion may have {length} tokens together, and beyond {self.longest} the model's "
                f"rotary frequencies change for the whole row, which a cache cannot follow: ask for at most "
                f"{self.longest} (--max_completion_length, --max_prompt_length)"
            )

    @torch.inference_mode()
    def sample(
        self, requests: Sequence[SamplingRequest], params: SamplingParams, progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        """See Sampler.sample.

        Raises FloatingPointError if logits are not finite, ConfigError for rows that may become too long.
        """
        self.check_length(max((len(request.prompt) for request in requests), default=0) + params.max_tokens)
        with self.scope(), torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.mixed):
            self._refuse_too_long(requests, params)
            return self._sample(requests, params, progress)

    def _refuse_too_long(self, requests: Sequence[SamplingRequest], params: SamplingParams) -> None:
        """Raise ConfigError if a completion may need more positions than the model has; its last token needs none."""
        if self._num_positions is None:
            self._num_positions = num_positions(self.model) or sys.maxsize
        longest = max((len(request.prompt) for request in requests), default=0) + params.max_tokens
        limit = self._num_positions
        if longest - 1 > limit and not can_read(self.model, longest - 1, limit):
            raise ConfigError(
                f"a prompt of {longest - params.max_tokens:,} tokens and a completion of up to {params.max_tokens:,} "
                f"need more than the {limit:,} positions that the model has: lower --max_completion_length"
            )

    def _sample(
        self, requests: Sequence[SamplingRequest], params: SamplingParams, progress: Callable[[int], None] | None
    ) -> list[list[Completion]]:
        call = SamplingCall(self.model, self.max_rows, requests, params, self.decode, progress)
        completions = self.path.generate(call)
        results: list[list[Completion]] = [[] for _ in requests]
        for item in completions:
            finish: Finish = "stop" if item.stopped else "length"
            results[item.request].append(Completion(item.ids, item.behavior, finish, self.step))
        call.report(len(completions))
        return results
