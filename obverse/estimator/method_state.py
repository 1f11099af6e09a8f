"""What a method remembers from update to update: read before one, revised after it, kept in the run's state."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

from obverse.estimator.method import Method
from obverse.estimator.parts.interfaces import Memory
from obverse.types import Group

Store = MutableMapping[str, float]  # by problem, or one number under RUN
RUN = "run"


def recall(method: Method, store: Store, groups: Sequence[Group]) -> list[float] | None:
    """The number for each group's samples; None for a method without a memory."""
    memory = method.memory
    if memory is None:
        return None
    groups = [method.shown(group, memory) for group in groups]
    return [memory.recall(group, store.get(_key(memory, group), memory.start)) for group in groups]


def revise(method: Method, store: Store, groups: Sequence[Group], observed: Sequence[Sequence[float]]) -> None:
    """Take in what the samples of each group showed; a group without any changes nothing."""
    memory = method.memory
    if memory is None:
        return
    shown: dict[str, list[float]] = {}
    for group, values in zip(groups, observed, strict=True):
        shown.setdefault(_key(memory, group), []).extend(values)
    for key, values in shown.items():
        if values:
            store[key] = memory.revise(store.get(key, memory.start), values)


def _key(memory: Memory, group: Group) -> str:
    return f"problem {group.problem.id}" if memory.of_problem else RUN
