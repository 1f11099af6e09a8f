"""When a completion ends, and when a whole call does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from obverse.inference.types import SamplingParams

SLACK = 8  # tokens decoded beyond what a stop string can need: some decode to nothing


class Stops:
    """The ends that a law names. Stop strings need `decode`, from ids to text; ValueError without it."""

    def __init__(self, params: SamplingParams, decode: Callable[[Sequence[int]], str] | None) -> None:
        if params.stop_strings and decode is None:
            raise ValueError("stop strings need a sampler that can decode")
        self.params, self.decode = params, decode
        self.ids = frozenset(params.stop_ids)
        # a token that shows is at least one byte: what the last one completed lies within so many
        self.tail = SLACK + max((len(each.encode()) for each in params.stop_strings), default=0)

    def stop(self, ids: list[int]) -> bool:
        """The last of `ids` is a stop token, or completes a stop string."""
        if ids[-1] in self.ids:
            return True
        if not self.params.stop_strings or self.decode is None:
            return False
        text = self.decode(ids[-self.tail :])
        return any(each in text for each in self.params.stop_strings)

    def spent(self, num_tokens: int, seconds: float) -> bool:
        """The call has sampled as many tokens, or taken as long, as it may."""
        most, longest = self.params.max_call_tokens, self.params.max_seconds
        return (most is not None and num_tokens >= most) or (longest is not None and seconds >= longest)
