"""The ways in which completions can be decoded, from the fastest to the slowest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from obverse.inference import decode_loop, native_decode
from obverse.inference.partial import PartialCompletion, SamplingCall
from obverse.inference.slot_cache import can_keep
from obverse.inference.time_steps import limited_time_steps


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

    def generate(self, call: SamplingCall) -> list[PartialCompletion]:
        """Sample the completions of a call, in the order of its requests and seeds."""
        with limited_time_steps(call.model):
            if self.slots:
                return decode_loop.generate(call, self.pads)
            return native_decode.generate(call, self.selects, self.cached)


PATHS = (
    DecodePath("all together", slots=True, pads=True),
    DecodePath("prompts of one length together", slots=True),
    DecodePath("completions of one length together", selects=True),
    DecodePath("one by one"),
    DecodePath("without a cache", selects=True, cached=False),
)
