"""Several methods over one run: one after another, in turns, or one whenever problems are waiting for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from obverse.errors import ConfigError
from obverse.estimator.method import Method
from obverse.estimator.parts.interfaces import Named
from obverse.types import Group


@dataclass(frozen=True)
class Clock:
    """Where a run stands when it asks whose turn it is."""

    step: int = 0
    progress: float = 0.0  # 0 to 1
    num_waiting: int = 0  # problems that were put aside


class StageSelector(Protocol):
    """Whose turn it is."""

    num_stages: int
    fresh_anchor: bool  # a lane that begins later takes the policy of that moment as its initial model

    def stage(self, clock: Clock) -> int:
        """The number of the lane."""

    def progress(self, stage: int, progress: float) -> float:
        """The run's progress as the lane counts it, 0 to 1."""

    def span(self, stage: int) -> float:
        """The share of the run's steps that the lane's schedule counts on."""


@dataclass(frozen=True)
class Only(Named):
    """One lane from the beginning to the end."""

    num_stages = 1
    fresh_anchor = False

    def stage(self, clock: Clock) -> int:
        return 0

    def progress(self, stage: int, progress: float) -> float:
        return progress

    def span(self, stage: int) -> float:
        return 1.0


@dataclass(frozen=True)
class InOrder(Named):
    """One lane after the other; the first gets the share `first` of the run. Each counts its own progress from 0.

    The second begins with a fresh optimizer and schedule, and its initial model is the policy that it finds.
    """

    first: float = 0.5
    num_stages = 2
    fresh_anchor = True

    def __post_init__(self) -> None:
        if not 0 < self.first < 1:
            raise ValueError(f"the first stage gets a share of the run between 0 and 1, not {self.first:g}")

    def stage(self, clock: Clock) -> int:
        return int(clock.progress >= self.first)

    def progress(self, stage: int, progress: float) -> float:
        begin, length = (0.0, self.first) if stage == 0 else (self.first, 1 - self.first)
        return min(max((progress - begin) / length, 0.0), 1.0)

    def span(self, stage: int) -> float:
        return self.first if stage == 0 else 1 - self.first


@dataclass(frozen=True)
class InTurns(Named):
    """`first` steps of the first lane, then `second` steps of the second, and so on; the clock is the run's."""

    first: int = 1
    second: int = 1
    num_stages = 2
    fresh_anchor = False

    def __post_init__(self) -> None:
        if min(self.first, self.second) < 1:
            raise ValueError("each lane needs at least one step in its turn")

    def stage(self, clock: Clock) -> int:
        return int(clock.step % (self.first + self.second) >= self.first)

    def progress(self, stage: int, progress: float) -> float:
        return progress

    def span(self, stage: int) -> float:
        return (self.first, self.second)[stage] / (self.first + self.second)


@dataclass(frozen=True)
class WhenWaiting(Named):
    """The first lane, and a step of the second as soon as `num` problems wait; it takes those, the newest first."""

    num: int = 128
    num_stages = 2
    fresh_anchor = False

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError("at least one problem has to wait for the second lane")

    def stage(self, clock: Clock) -> int:
        return int(clock.num_waiting >= self.num)

    def progress(self, stage: int, progress: float) -> float:
        return progress

    def span(self, stage: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Stage:
    """A method in a course.

    Lanes share the weights; each has an optimizer and a schedule of its own, at the run's learning rate if it has none.
    """

    method: Method
    learning_rate: float | None = None
    shares_optimizer: bool = False  # the first lane's moments, schedule and rate


@dataclass(frozen=True)
class TrainingSchedule:
    """Methods over time.

    Example:
        TrainingSchedule((Stage(sft(), 1e-5), Stage(grpo())), InOrder(first=0.3))      # SFT, then GRPO
    """

    stages: tuple[Stage, ...]
    selector: StageSelector = field(default_factory=Only)
    run: Mapping[str, Any] = field(default_factory=dict)  # run options with which the paper got its numbers

    def __post_init__(self) -> None:
        if len(self.stages) != self.selector.num_stages:
            raise ValueError(f"{self.selector} moves between {self.selector.num_stages} lanes, not {len(self.stages)}")
        if self.stages[0].shares_optimizer:
            raise ValueError("the first lane has nobody to share an optimizer with")
        if any(stage.shares_optimizer and stage.learning_rate is not None for stage in self.stages):
            raise ValueError("a lane that shares the first one's optimizer has no learning rate of its own")

    @property
    def methods(self) -> tuple[Method, ...]:
        return tuple(stage.method for stage in self.stages)

    def at(self, progress: float) -> tuple[int, ...]:
        """The lanes that may act at this point of the run: one of several in order, all that take turns."""
        if isinstance(self.selector, InOrder):
            return (self.selector.stage(Clock(progress=progress)),)
        return tuple(range(len(self.stages)))

    @property
    def num_taken(self) -> int | None:
        """How many waiting problems a step of the second lane takes; None: it takes from the stream as the first."""
        return self.selector.num if isinstance(self.selector, WhenWaiting) else None

    def is_put_aside(self, group: Group) -> bool:
        """Whether a problem of the first lane waits for the second: all its samples failed, and somebody solved it."""
        failed = bool(group.of("rollout")) and group.num_correct == 0
        return self.num_taken is not None and failed and bool(group.problem.demonstration)


def as_schedule(made: Method | TrainingSchedule) -> TrainingSchedule:
    """A method alone is a course with one lane."""
    return made if isinstance(made, TrainingSchedule) else TrainingSchedule((Stage(made),), run=made.run)


def only(made: Method | TrainingSchedule) -> Method:
    """The method of a course that has one; ConfigError for others."""
    if isinstance(made, TrainingSchedule):
        raise ConfigError("a course of several methods cannot stand where one method is asked for")
    return made
