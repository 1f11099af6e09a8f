"""When a completion ends, and when a whole call does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from obverse.inference.types import SamplingParams

SLACK = 8  # tokens decoded in addition to those that a stop string can span: some decode to nothing


class Stops:
    """The stop conditions of sampling parameters. Stop strings need `decode`, from ids to text; ValueError without."""

    def __init__(self, params: SamplingParams, decode: Callable[[Sequence[int]], str] | None) -> None:
        if params.stop_strings and decode is None:
            raise ValueError("stop strings need a sampler that can decode")
        self.params, self.decode = params, decode
        self.ids = frozenset(params.stop_ids)
        # a visible token is at least one byte, so a stop string that the last token completes lies in this many tokens
        self.tail = SLACK + max((len(string.encode()) for string in params.stop_strings), default=0)

    def stop(self, ids: list[int]) -> bool:
        """Whether the last of `ids` is a stop token, or completes a stop string."""
        if ids[-1] in self.ids:
            return True
        if not self.params.stop_strings or self.decode is None:
            return False
        text = self.decode(ids[-self.tail :])
        return any(string in text for string in self.params.stop_strings)

    def is_over_budget(self, num_tokens: int, seconds: float) -> bool:
        """Whether the call has reached its limit of tokens or seconds."""
        max_tokens, max_seconds = self.params.max_call_tokens, self.params.max_seconds
        return (max_tokens is not None and num_tokens >= max_tokens) or (
            max_seconds is not None and seconds >= max_seconds
        )
