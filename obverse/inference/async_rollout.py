"""A sampler that draws the completions of the next step while the current one trains."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from obverse.inference.types import Completion, Sampler, SamplingParams, SamplingRequest
from obverse.seeds import seed_for

CHECK_SECONDS = 0.2  # between two calls of `check` while waiting

Key = tuple[int, int, bool, int]  # a completion's seed, a hash of its prompt, whether it is greedy, its max_tokens


@dataclass
class PrefetchedBatch:
    """Completions that were sampled for the step after `step`."""

    step: int
    completions: dict[Key, Completion] = field(default_factory=dict)
    thread: threading.Thread | None = None
    error: BaseException | None = None

    def add(
        self, requests: Sequence[SamplingRequest], params: SamplingParams, results: Sequence[Sequence[Completion]]
    ) -> None:
        for request, completions in zip(requests, results, strict=True):
            for seed, completion in zip(request.seeds, completions, strict=True):
                self.completions[completion_key(params, request, seed)] = completion


class AsyncSampler:
    """A sampler in front of another: it returns prefetched completions, and requests the missing ones.

    With `threaded` it prefetches in a thread, for a sampler with its own copy of the weights, such as a server.
    Otherwise it prefetches before `prefetch` returns: the same completions, without the gain of time. `check` is called
    while the caller waits, and may raise.
    """

    def __init__(self, sampler: Sampler, threaded: bool, check: Callable[[], None] = lambda: None) -> None:
        self.sampler, self.threaded, self.check = sampler, threaded, check
        self.batches: dict[int, PrefetchedBatch] = {}  # by their step
        self.step = 0

    @property
    def model(self) -> Any:
        """The model of this process that samples; None where a server samples."""
        return getattr(self.sampler, "model", None)

    def sync_weights(self, step: int) -> None:
        """See Sampler.sync_weights. Waits for the prefetch, which uses the weights before."""
        self.wait(self.check)
        self.step = step
        self.batches = {number: batch for number, batch in self.batches.items() if number >= step}
        self.sampler.sync_weights(step)

    def sample(
        self, requests: Sequence[SamplingRequest], params: SamplingParams, progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        """See Sampler.sample."""
        self.wait(self.check)
        batch = self.batches.get(self.step, PrefetchedBatch(self.step)).completions
        missing = [
            SamplingRequest(
                request.prompt,
                [seed for seed in request.seeds if completion_key(params, request, seed) not in batch],
            )
            for request in requests
        ]
        to_sample = [request for request in missing if request.seeds]
        sampled = iter(self.sampler.sample(to_sample, params, progress) if to_sample else [])
        results = []
        for request, rest in zip(requests, missing, strict=True):
            new = dict(zip(rest.seeds, next(sampled), strict=True)) if rest.seeds else {}
            results.append(
                [new[seed] if seed in new else batch[completion_key(params, request, seed)] for seed in request.seeds]
            )
        return results

    def prefetch(self, calls: Sequence[tuple[list[SamplingRequest], SamplingParams]], step: int) -> None:
        """Start to sample, from the current weights, what the step after `step` needs."""
        batch = self.batches[step] = PrefetchedBatch(step)

        def run() -> None:
            for requests, params in calls:
                batch.add(requests, params, self.sampler.sample(requests, params))

        def run_in_thread() -> None:
            try:
                run()
            except BaseException as error:  # noqa: BLE001 - raised by `wait`, in the caller's thread
                batch.error = error

        if not self.threaded:
            run()
            return
        batch.thread = threading.Thread(target=run_in_thread, daemon=True)
        batch.thread.start()

    def wait(self, check: Callable[[], None] = lambda: None) -> None:
        """Wait for the prefetch to end; raises its error."""
        for batch in list(self.batches.values()):
            while batch.thread is not None and batch.thread.is_alive():
                batch.thread.join(CHECK_SECONDS)
                check()
            batch.thread = None
            if batch.error is not None:
                del self.batches[batch.step]
                raise batch.error

    def state(self, step: int) -> list[dict[str, Any]]:
        """The completions for the step after `step`, as JSON: the weights that sampled them are in no checkpoint."""
        batch = self.batches.get(step)
        if batch is None:
            return []
        self.wait()
        return [{"key": list(key), **asdict(completion)} for key, completion in batch.completions.items()]

    def load_state(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """Restore what `state` returned."""
        completions: dict[Key, Completion] = {}
        for row in rows:
            seed, prompt, greedy, max_tokens = row["key"]
            completions[seed, prompt, greedy, max_tokens] = Completion(
                row["ids"], row["behavior"], row["finish"], row["weights"]
            )
        if completions:
            self.batches[step] = PrefetchedBatch(step, completions)


def completion_key(params: SamplingParams, request: SamplingRequest, seed: int) -> Key:
    """What identifies a completion; all other sampling parameters are constant in a run."""
    return seed, seed_for(0, "prompt", *request.prompt.token_ids), params.temperature == 0, params.max_tokens
