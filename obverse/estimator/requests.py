"""The generation requests of a method, sampled at several points of a run. No torch import."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from obverse.estimator.method import Method
from obverse.types import GenerationRequest, Problem

ANY = Problem("any", "", answer="", demonstration=("one step", "another"), chosen="", rejected="")
TENTHS = tuple(tenth / 10 for tenth in range(11))


def generation_requests(
    method: Method, problems: Sequence[Problem] = (ANY,), times: Sequence[float] = TENTHS
) -> Iterator[GenerationRequest]:
    """All requests of the method for `problems` at the fractions `times` of the run.

    A request function that draws at random has `alternatives(problem)`: all of these, whatever it draws at `times`.
    """
    for requests in request_lists(method, problems, times):
        yield from requests


def request_lists(
    method: Method, problems: Sequence[Problem] = (ANY,), times: Sequence[float] = TENTHS
) -> Iterator[list[GenerationRequest]]:
    """The requests of the method, a list for each problem and time, or for each alternative.

    Requests of follow-up rounds are in the lists: one list for each of their alternatives.
    """
    alternatives = getattr(method.ask, "alternatives", None)
    for problem in problems:
        first = alternatives(problem) if alternatives else [method.ask(problem, progress) for progress in times]
        further = [[]] if method.follow_up is None else method.follow_up.alternatives(problem)
        yield from ([*requests, *added] for requests in first for added in further)


def wants(method: Method, kind: str, problems: Sequence[Problem] = (ANY,)) -> bool:
    """Whether the method requests `rollouts`, `demonstrations` (or hints of them), `pairs`, `labeled` or `greedy`."""
    fields = ("demonstrations", "hint") if kind == "demonstrations" else (kind,)
    return any(getattr(request, field) for request in generation_requests(method, problems) for field in fields)


def samples_policy(method: Method) -> bool:
    """Whether the method trains on completions of the policy."""
    return any(wants(method, kind) for kind in ("rollouts", "greedy"))


def samples_initial(method: Method) -> bool:
    """Whether the method requests rollouts of the frozen initial model."""
    return any(request.author == "initial" and request.rollouts for request in generation_requests(method))


def max_samples_per_problem(method: Method) -> int:
    """The largest number of samples that the method requests for one problem and trains on; greedy ones are not."""
    return max(
        sum(request.rollouts + request.demonstrations + 2 * max(request.pairs, request.labeled) for request in requests)
        for requests in request_lists(method)
    )
