"""What a method asks for, found by asking it about one problem of every kind at some points of a run. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from obverse.estimator.method import Method
from obverse.types import GenerationRequest, Problem

ANY = Problem("any", "", answer="", demonstration=("one step", "another"), chosen="", rejected="")
TENTHS = tuple(tenth / 10 for tenth in range(11))


def generation_requests(
    method: Method, problems: Sequence[Problem] = (ANY,), times: Sequence[float] = TENTHS
) -> Iterator[GenerationRequest]:
    """Everything the method asks for at some points of a run."""
    for problem in problems:
        for progress in times:
            yield from method.ask(problem, progress)


def wants(method: Method, kind: str, problems: Sequence[Problem] = (ANY,)) -> bool:
    """Whether the method asks for `rollouts`, `demonstrations` (or hints of them), `pairs` or a `greedy` answer."""
    kinds = ("demonstrations", "hint") if kind == "demonstrations" else (kind,)
    return any(getattr(request, each) for request in generation_requests(method, problems) for each in kinds)


def samples_initial(method: Method) -> bool:
    """Whether the model that the run began with is sampled from."""
    return any(request.author == "initial" and request.rollouts for request in generation_requests(method))
