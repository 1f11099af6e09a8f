"""A method's persistent numbers: read before an update, updated after it, stored in the run's state."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

from obverse.estimator.method import Method
from obverse.estimator.parts.interfaces import Memory
from obverse.types import Group

Store = MutableMapping[str, float]  # a number per problem, or one for the run under the key RUN
RUN = "run"


def memory_values(method: Method, store: Store, groups: Sequence[Group]) -> list[float] | None:
    """The number that the samples of each group read; None for a method without a memory."""
    memory = method.memory
    if memory is None:
        return None
    groups = [method.visible_group(group, memory) for group in groups]
    return [memory.value_for(group, store.get(_key(memory, group), memory.start)) for group in groups]


def update_memory(method: Method, store: Store, groups: Sequence[Group], observed: Sequence[Sequence[float]]) -> None:
    """Update the store with the observations of each group's samples; groups without observations change nothing."""
    memory = method.memory
    if memory is None:
        return
    observations: dict[str, list[float]] = {}
    for group, values in zip(groups, observed, strict=True):
        observations.setdefault(_key(memory, group), []).extend(values)
    for key, values in observations.items():
        if values:
            store[key] = memory.updated_value(store.get(key, memory.start), values)


def _key(memory: Memory, group: Group) -> str:
    return f"problem {group.problem.id}" if memory.per_problem else RUN
