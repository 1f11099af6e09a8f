"""A sampler that says what it is told, for tests of everything around sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from obverse.inference.types import Completion, SamplingParams, SamplingRequest


class ScriptedSampler:
    """Answers every order from a function (prompt ids, seed) -> response ids; each token gets log-prob -0.5."""

    def __init__(self, say: Callable[[Sequence[int], int], list[int]]) -> None:
        self.say = say
        self.requests: list[SamplingRequest] = []
        self.step = 0

    def sync_weights(self, step: int) -> None:
        self.step = step

    def sample(
        self, requests: Sequence[SamplingRequest], params: SamplingParams, progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        self.requests.extend(requests)
        return [[self._one(request.prompt.token_ids, seed, params) for seed in request.seeds] for request in requests]

    def _one(self, prompt_ids: Sequence[int], seed: int, params: SamplingParams) -> Completion:
        ids = self.say(prompt_ids, seed)[: params.max_tokens]
        return Completion(ids, [-0.5] * len(ids), "stop" if ids and ids[-1] in params.stop_ids else "length", self.step)
