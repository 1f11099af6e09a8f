"""Methods that between them use every mechanism of a run: `make test` runs these, `make test-all` every method."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import pytest

from obverse import methods
from obverse.estimator.schedule import as_schedule

REPRESENTATIVES = (
    "reft",  # a stage after another, with a critic and a shaped reward
    "alternate",  # stages in turn
    "relift",  # a stage for a buffer of failed problems
    "discriminative",  # a memory, and groups that are never split
    "hint_stages",  # hints
    "hpt",  # demonstrations and rollouts, which a gate chooses between
    "trapo",  # further samples once the first are graded
    "dapo",  # sampling again until a batch is full
    "ift",  # inputs that are not the response's embeddings
    "una",  # demonstrations and pairs
    "upft",  # prefixes, which nothing grades
    "sdpo",  # an average of the policy as a teacher, which scores tokens behind a prompt of its own
    "gkd",  # a divergence from the distribution of another model
    "exgrpo",  # a store of own right samples, which come back
    "m2po",  # a first pass over the whole update
    "reward_model",  # a scalar head in place of a policy
)


def mechanisms(name: str) -> Iterator[str]:
    """What a run of the method needs beside a policy, an optimizer and a loop."""
    schedule = as_schedule(methods.build(name))
    yield f"stages by {type(schedule.selector).__name__}"
    for method in schedule.methods:
        yield from (f"{source.label} tokens" for source in method.sources)
        yield from (f"the stream {stream}" for stream in method.streams)
        yield f"graded: {method.grades}"
        parts = {"memory": method.memory, "critic": method.critic, "inputs": method.inputs, "shaping": method.shaping}
        yield from (part for part, value in parts.items() if value)
        if method.teacher is not None:
            yield from {"average": ["an average"], "model": ["another model"]}.get(method.teacher.who, [])
            yield from ["prompts of a teacher"] if method.teacher.contexts != ("prompt",) else []
        yield from ["further samples after verdicts"] if method.follow_up is not None else []
        yield from ["several rounds"] if method.max_rounds > 1 else []
        yield from ["a store of samples"] if method.replay is not None else []
        yield from ["a first pass over the update"] if method.reads_update else []
        yield from ["whole groups in a micro batch"] if method.needs_whole_groups else []


def representatives_first(names: Iterable[str], without: Collection[str] = ()) -> list[Any]:
    """Parameters of a test: methods, or their stages (`reft:1`); those of other methods are marked `slow`."""
    chosen = {*REPRESENTATIVES} - {*without}
    return [name if name.partition(":")[0] in chosen else pytest.param(name, marks=pytest.mark.slow) for name in names]
