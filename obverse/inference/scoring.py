"""The interface of scorers: prompts with given responses in, the log-prob of every response token out. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from obverse.types import ModelInput, Source


@dataclass(frozen=True)
class ScoringRequest:
    """A response, as token ids, behind the prompt that the scoring model reads.

    The ids are scored as they are. `sources` has the origin of each: tokens of rollouts are scored at the sampling
    temperature of the run, all others at temperature 1.
    """

    prompt: ModelInput
    ids: Sequence[int]  # [n]
    sources: Sequence[Source]  # [n]

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and response together."""
        return len(self.prompt) + len(self.ids)


class TokenScorer(Protocol):
    """A model that scores given tokens: one of this process, or one behind a server."""

    @property
    def num_parameters(self) -> int:
        """Parameters of the model, for the FLOPs of its scores; 0 if unknown."""

    def score(
        self, requests: Sequence[ScoringRequest], progress: Callable[[int], None] | None = None
    ) -> list[list[float]]:
        """The log-prob, in nats, of each id of each request, in order; -inf for one that the model cannot produce.

        `progress` receives the number of requests that are scored, and may raise Interrupted. All ranks call this the
        same number of times, each with its own requests, which may be none.
        """
