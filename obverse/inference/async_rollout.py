"""Completions drawn one update ahead: what the next step trains on is written while this one trains."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from obverse.inference.types import Completion, Sampler, SamplingParams, SamplingRequest
from obverse.seeds import seed_for

NEWS_SECONDS = 0.2  # how often a caller who waits looks up

Key = tuple[int, int, bool, int]  # a completion's seed, its prompt, whether it is greedy, its longest length


@dataclass
class Batch:
    """What was asked for ahead, and what came of it; `step` is the one after which it is to be used."""

    step: int
    found: dict[Key, Completion] = field(default_factory=dict)
    thread: threading.Thread | None = None
    error: BaseException | None = None

    def take(
        self, requests: Sequence[SamplingRequest], params: SamplingParams, drawn: Sequence[Sequence[Completion]]
    ) -> None:
        """Keep the completions under the names by which they will be asked for."""
        for request, completions in zip(requests, drawn, strict=True):
            for seed, completion in zip(request.seeds, completions, strict=True):
                self.found[key(params, request, seed)] = completion


class Ahead:
    """A sampler in front of another: it answers from what it drew ahead, and asks the other for the rest.

    With `threaded` it draws beside the caller's work: for a sampler that holds weights of its own, elsewhere. Without,
    it draws at once, before the caller goes on: the same completions, no time won. `check` is called while somebody
    waits, and may raise.
    """

    def __init__(self, sampler: Sampler, threaded: bool, check: Callable[[], None] = lambda: None) -> None:
        self.sampler, self.threaded, self.check = sampler, threaded, check
        self.batches: dict[int, Batch] = {}  # by the step after which they are to be used
        self.step = 0

    @property
    def model(self) -> Any:
        """The model of this process that samples, None where a server does."""
        return getattr(self.sampler, "model", None)

    def sync_weights(self, step: int) -> None:
        """See Sampler.sync_weights. Waits for what is being drawn: it is drawn from the weights before."""
        self.settle(self.check)
        self.step = step
        self.batches = {number: batch for number, batch in self.batches.items() if number >= step}
        self.sampler.sync_weights(step)

    def sample(
        self, requests: Sequence[SamplingRequest], params: SamplingParams, progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        """See Sampler.sample."""
        self.settle(self.check)
        known = self.batches.get(self.step, Batch(self.step)).found
        missing = [
            SamplingRequest(each.prompt, [s for s in each.seeds if key(params, each, s) not in known])
            for each in requests
        ]
        asked = [request for request in missing if request.seeds]
        drawn = iter(self.sampler.sample(asked, params, progress) if asked else [])
        results = []
        for request, rest in zip(requests, missing, strict=True):
            fresh = dict(zip(rest.seeds, next(drawn), strict=True)) if rest.seeds else {}
            results.append(
                [fresh[seed] if seed in fresh else known[key(params, request, seed)] for seed in request.seeds]
            )
        return results

    def draw(self, calls: Sequence[tuple[list[SamplingRequest], SamplingParams]], step: int) -> None:
        """Begin to draw what will be used once the policy stands after `step`, from the weights as they are now."""
        batch = self.batches[step] = Batch(step)

        def work() -> None:
            for requests, params in calls:
                batch.take(requests, params, self.sampler.sample(requests, params))

        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - raised by `settle`, where somebody waits for it
                batch.error = error

        if not self.threaded:
            work()
            return
        batch.thread = threading.Thread(target=guarded, daemon=True)
        batch.thread.start()

    def settle(self, check: Callable[[], None] = lambda: None) -> None:
        """Wait until nothing is being drawn; what went wrong meanwhile is raised here."""
        for batch in list(self.batches.values()):
            while batch.thread is not None and batch.thread.is_alive():
                batch.thread.join(NEWS_SECONDS)
                check()
            batch.thread = None
            if batch.error is not None:
                del self.batches[batch.step]
                raise batch.error

    def record(self, step: int) -> list[dict[str, Any]]:
        """What was drawn for the step after `step`, as JSON: a checkpoint keeps it, for its weights are gone then."""
        batch = self.batches.get(step)
        if batch is None:
            return []
        self.settle()
        return [{"key": list(name), **asdict(completion)} for name, completion in batch.found.items()]

    def restore(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """Go on with what `record` kept."""
        found: dict[Key, Completion] = {}
        for row in rows:
            seed, prompt, greedy, most = row["key"]
            found[seed, prompt, greedy, most] = Completion(row["ids"], row["behavior"], row["finish"], row["weights"])
        if found:
            self.batches[step] = Batch(step, found)


def key(params: SamplingParams, request: SamplingRequest, seed: int) -> Key:
    """What names a completion. The rest of the law is the run's."""
    return seed, seed_for(0, "prompt", *request.prompt.token_ids), params.temperature == 0, params.max_tokens
