"""A sampler that says what it is told, for tests of everything around sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from obverse.sampling.protocol import Completion, Law, Order


class ScriptedSampler:
    """Answers every order from a function (prompt ids, seed) -> response ids; each token gets log-prob -0.5."""

    def __init__(self, say: Callable[[Sequence[int], int], list[int]]) -> None:
        self.say = say
        self.orders: list[Order] = []
        self.step = 0

    def follow(self, step: int) -> None:
        self.step = step

    def sample(
        self, orders: Sequence[Order], law: Law, progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        self.orders.extend(orders)
        return [[self._one(order.prompt_ids, seed, law) for seed in order.seeds] for order in orders]

    def _one(self, prompt_ids: Sequence[int], seed: int, law: Law) -> Completion:
        ids = self.say(prompt_ids, seed)[: law.max_tokens]
        return Completion(ids, [-0.5] * len(ids), "stop" if ids and ids[-1] in law.stop_ids else "length", self.step)
