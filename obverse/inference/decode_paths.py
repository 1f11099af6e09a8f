"""The ways in which completions can be decoded, from the fastest to the slowest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from obverse.inference import decode_loop, native_decode
from obverse.inference.partial import PartialCompletion
from obverse.inference.slot_cache import can_keep
from obverse.inference.time_steps import limited_time_steps
from obverse.inference.types import SamplingParams, SamplingRequest


@dataclass(frozen=True)
class DecodePath:
    """How a model's completions share forward passes; `description` is what docs/models.md says of it."""

    description: str
    slots: bool = False  # in a slot cache, which keeps rows of all lengths; otherwise in the model's own cache
    pads: bool = False  # prompts of unequal lengths share a forward pass
    selects: bool = False  # rows of the model's own cache are repeated and dropped; otherwise it has one row
    cached: bool = True

    @property
    def is_slow(self) -> bool:
        """Whether completions are decoded one at a time, or all their tokens are read again for each one."""
        return not self.slots and (not self.selects or not self.cached)

    def fits(self, model: Any) -> bool:
        """Whether the path can be tried."""
        return not self.slots or can_keep(model)

    def generate(
        self,
        model: Any,
        max_rows: int,
        requests: Sequence[SamplingRequest],
        params: SamplingParams,
        decode: Callable[[Sequence[int]], str] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[PartialCompletion]:
        """Sample the completions of `requests`, in the order of requests and seeds, at most `max_rows` at once."""
        with limited_time_steps(model):
            if self.slots:
                return decode_loop.generate(model, self.pads, max_rows, requests, params, decode, progress)
            return native_decode.generate(
                model, self.selects, self.cached, max_rows, requests, params, decode, progress
            )


PATHS = (
    DecodePath("all together", slots=True, pads=True),
    DecodePath("prompts of one length together", slots=True),
    DecodePath("completions of one length together", selects=True),
    DecodePath("one by one"),
    DecodePath("without a cache", selects=True, cached=False),
)
