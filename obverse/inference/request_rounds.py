"""Many requests to one server: a bounded number in flight, and those that were lost again once the server is back."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from obverse.errors import ConfigError, EngineError
from obverse.inference.http import AnswerTimeout, Client, RequestRejected, ServerUnavailable

PROGRESS_SECONDS = 1.0  # longest time between two calls of `progress`, which may raise for a signal
HEALTH_SECONDS = 10.0  # without an answer for this long, the server's health is checked
MAX_FAILED_ROUNDS = 5  # rounds in a row without an answer although the server came back

Job = TypeVar("Job")
Answer = TypeVar("Answer")
Result = TypeVar("Result")


@dataclass
class RequestRounds(Generic[Job, Answer, Result]):
    """Sends a request per job, in rounds: each round sends those that have no result yet.

    Args:
        client: The client of the server.
        send: Starts the request of a job and returns the future of its answer.
        read: The result of a job's answer. Raises ServerUnavailable where the job must be sent again, EngineError for
            an answer that cannot be used.
        recover: Called after a round that lost requests, with the last error: waits until the server can take them.
        at_once: The largest number of requests in flight.
    """

    client: Client
    send: Callable[[Job], Future[Answer]]
    read: Callable[[Job, Answer], Result]
    recover: Callable[[ServerUnavailable], None]
    at_once: int

    def run(self, jobs: Sequence[Job], progress: Callable[[int], None]) -> list[Result]:
        """The results in the order of `jobs`; `progress` receives their number and may raise.

        Raises EngineError when the server stays away, rejects a request, sends an invalid answer or, restarted, no
        longer fits the run.
        """
        results: dict[int, Result] = {}
        num_failed, last_success = 0, time.monotonic()
        while len(results) < len(jobs):
            num_before = len(results)
            error = self._round(
                {index: job for index, job in enumerate(jobs) if index not in results}, results, progress
            )
            if error is None:
                continue
            if len(results) > num_before:
                num_failed, last_success = 0, time.monotonic()
            elif error.retry_after is None:
                num_failed += 1
            is_over = error.retry_after is not None and time.monotonic() - last_success > self.client.timeout
            if isinstance(error, AnswerTimeout) or num_failed > MAX_FAILED_ROUNDS or is_over:
                raise EngineError(f"{self.client.name} completes no request ({error}): read its log")
            try:
                self.recover(error)
            except ConfigError as unfit:  # it was restarted, and no longer fits the run
                raise EngineError(str(unfit)) from None
        return [results[index] for index in range(len(jobs))]

    def _round(
        self, jobs: dict[int, Job], results: dict[int, Result], progress: Callable[[int], None]
    ) -> ServerUnavailable | None:
        """Send each job once and add the results to `results`; returns the last error that lost a request."""
        waiting, in_flight = deque(jobs), dict[Future[Any], int]()
        done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        last_answer = time.monotonic()
        lost: ServerUnavailable | None = None
        try:
            while waiting or in_flight:
                while waiting and len(in_flight) < self.at_once:
                    index = waiting.popleft()
                    future = self.send(jobs[index])
                    in_flight[future] = index
                    future.add_done_callback(done.put)
                try:
                    future = done.get(timeout=PROGRESS_SECONDS)
                except queue.Empty:
                    self._check_health(time.monotonic() - last_answer)
                else:
                    index, last_answer = in_flight.pop(future), time.monotonic()
                    try:
                        results[index] = self.read(jobs[index], self._answer(future))
                    except ServerUnavailable as error:
                        lost = error
                progress(len(results))
        finally:
            if in_flight:  # an error, or a signal
                self.client.cancel_all()
        return lost

    def _answer(self, future: Future[Answer]) -> Answer:
        """The answer of a finished request. Raises ServerUnavailable where it must be sent again."""
        try:
            return future.result()
        except CancelledError:
            raise ServerUnavailable("the request was cancelled") from None
        except RequestRejected as error:
            if error.status >= 500:  # its engine is failing, or it is shutting down
                raise ServerUnavailable(str(error)) from None
            raise EngineError(f"{self.client.name} rejected a request: {error}") from None

    def _check_health(self, silent_seconds: float) -> None:
        """Check a silent server's health; cancel all requests once it has been unreachable for `client.timeout`."""
        if silent_seconds >= HEALTH_SECONDS:
            try:
                self.client.request("/health", seconds=HEALTH_SECONDS)
            except (ServerUnavailable, RequestRejected) as error:
                is_dead = isinstance(error, ServerUnavailable) or error.status >= 500  # 404: it has no such endpoint
                if is_dead and silent_seconds >= self.client.timeout:
                    self.client.cancel_all()
