"""What a step of a method costs, in forward and backward passes over responses. No torch import."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from obverse.estimator.method import Method
from obverse.estimator.parts import MismatchedKL
from obverse.estimator.requests import ANY, request_lists
from obverse.types import GenerationRequest, GradeResult, Group, Kind, ModelInput, Sample, Source

PAIR: tuple[Kind, ...] = ("chosen", "rejected")


class Cost(NamedTuple):
    """Tokens per problem and step in units of one response's tokens, all responses taken as equally long.

    SFT on a demonstration is (1, 1). `forward` counts sampling, scoring by other models and the training pass;
    `backward` the tokens that have a gradient, those of a critic included. Prompts, evaluations and sampling again for
    problems that were not selected are left out.
    """

    forward: int
    backward: int


def cost_of(method: Method, run: Mapping[str, Any] | None = None) -> Cost:
    """The most that a problem costs in a step, over verdicts, draws and the whole run; `run` are its run options."""
    distinct = dict.fromkeys(tuple(requests) for requests in request_lists(method))
    costs = [_cost(method, requests, run or {}) for requests in distinct]
    return Cost(max(cost.forward for cost in costs), max(cost.backward for cost in costs))


def _cost(method: Method, requests: Sequence[GenerationRequest], run: Mapping[str, Any]) -> Cost:
    sampled = sum(request.rollouts + request.greedy for request in requests)
    trained = max(len(method.select(group)) for group in _groups(requests))
    num_iterations, num_mini_batches = run.get("num_iterations", 1), run.get("num_mini_batches", 1)
    forward = trained * (len(scoring_passes(method, num_iterations * num_mini_batches > 1)) + num_iterations)
    backward = trained * num_iterations * (1 if method.critic is None else 2)
    if method.critic is not None:
        forward += trained * (1 + num_iterations)  # values before the update, and in it
    return Cost(sampled + forward, backward)


def scoring_passes(method: Method, is_repeated: bool = False) -> list[str]:
    """The forward passes over a trained sample beside the update's own, by the model or numbers that they are for.

    `is_repeated`: the policy steps more than once on the samples of a step.
    """
    off_policy = [source for source in method.sources if not source.is_sampled]
    freezes = is_repeated or bool(method.shaping) or method.critic is not None
    passes = {
        "initial model": method.needs("anchor") or method.compares_with("anchor"),
        "teacher's log-probs": method.needs("teacher"),
        "teacher's distributions": method.compares_with("teacher"),
        "policy before its first step": freezes and any(method.reads_behavior(source) for source in off_policy),
    }
    passes["policy on mismatched responses"] = passes["initial model on them"] = reads_mismatched(method)
    passes["first pass over the update"] = method.reads_update
    return [name for name, is_made in passes.items() if is_made]


def reads_mismatched(method: Method) -> bool:
    """Whether KTO's estimate of the KL is read, from as many responses behind other prompts."""
    return isinstance(method.memory, MismatchedKL)


def _groups(requests: Sequence[GenerationRequest]) -> Iterator[Group]:
    """Groups as requested, with every number of right rollouts from none to all."""
    given: list[Sample] = []
    hints: list[int] = []  # of each rollout, in hundredths of the demonstration
    for request in requests:
        given += [_sample("demonstration", True) for _ in range(request.demonstrations)]
        given += [_sample(kind, kind == "chosen") for kind in PAIR for _ in range(max(request.pairs, request.labeled))]
        hints += [math.ceil(100 * request.hint)] * request.rollouts
    for num_right in range(len(hints) + 1):
        rollouts = [
            _sample("hinted" if num_hint else "rollout", index < num_right, f"{index}", num_hint)
            for index, num_hint in enumerate(hints)
        ]
        yield Group(ANY, given + rollouts)


def _sample(kind: Kind, is_right: bool, text: str = "", num_hint: int = 0) -> Sample:
    """A response of one token of its kind's source, behind a hint of `num_hint` tokens."""
    source = Source.ROLLOUT if kind in ("rollout", "hinted") else Source[kind.upper()]
    sources = [Source.HINT] * num_hint + [source]
    grade = GradeResult.passed() if is_right else GradeResult.failed("wrong")
    return Sample(kind, ModelInput((0,)), [0] * len(sources), sources, [0.0] * len(sources), text, grade=grade)
