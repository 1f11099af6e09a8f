"""Several methods over one run: one after another, in turns, or one whenever problems are waiting for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from obverse.errors import ConfigError
from obverse.method import Method
from obverse.parts.part import Named
from obverse.records import Group


@dataclass(frozen=True)
class Clock:
    """Where a run stands when it asks whose turn it is."""

    step: int = 0
    progress: float = 0.0  # 0 to 1
    num_waiting: int = 0  # problems that were put aside


class Turn(Protocol):
    """Whose turn it is."""

    num_lanes: int
    fresh_anchor: bool  # a lane that begins later takes the policy of that moment as its initial model

    def lane(self, clock: Clock) -> int:
        """The number of the lane."""

    def progress(self, lane: int, progress: float) -> float:
        """The run's progress as the lane counts it, 0 to 1."""

    def span(self, lane: int) -> float:
        """The share of the run's steps that the lane's schedule counts on."""


@dataclass(frozen=True)
class Only(Named):
    """One lane from the beginning to the end."""

    num_lanes = 1
    fresh_anchor = False

    def lane(self, clock: Clock) -> int:
        return 0

    def progress(self, lane: int, progress: float) -> float:
        return progress

    def span(self, lane: int) -> float:
        return 1.0


@dataclass(frozen=True)
class InOrder(Named):
    """One lane after the other; the first gets the share `first` of the run. Each counts its own progress from 0.

    The second begins with a fresh optimizer and schedule, and its initial model is the policy that it finds.
    """

    first: float = 0.5
    num_lanes = 2
    fresh_anchor = True

    def __post_init__(self) -> None:
        if not 0 < self.first < 1:
            raise ValueError(f"the first stage gets a share of the run between 0 and 1, not {self.first:g}")

    def lane(self, clock: Clock) -> int:
        return int(clock.progress >= self.first)

    def progress(self, lane: int, progress: float) -> float:
        begin, length = (0.0, self.first) if lane == 0 else (self.first, 1 - self.first)
        return min(max((progress - begin) / length, 0.0), 1.0)

    def span(self, lane: int) -> float:
        return self.first if lane == 0 else 1 - self.first


@dataclass(frozen=True)
class InTurns(Named):
    """`first` steps of the first lane, then `second` steps of the second, and so on; the clock is the run's."""

    first: int = 1
    second: int = 1
    num_lanes = 2
    fresh_anchor = False

    def __post_init__(self) -> None:
        if min(self.first, self.second) < 1:
            raise ValueError("each lane needs at least one step in its turn")

    def lane(self, clock: Clock) -> int:
        return int(clock.step % (self.first + self.second) >= self.first)

    def progress(self, lane: int, progress: float) -> float:
        return progress

    def span(self, lane: int) -> float:
        return (self.first, self.second)[lane] / (self.first + self.second)


@dataclass(frozen=True)
class WhenWaiting(Named):
    """The first lane, and a step of the second as soon as `num` problems wait; it takes those, the newest first."""

    num: int = 128
    num_lanes = 2
    fresh_anchor = False

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError("at least one problem has to wait for the second lane")

    def lane(self, clock: Clock) -> int:
        return int(clock.num_waiting >= self.num)

    def progress(self, lane: int, progress: float) -> float:
        return progress

    def span(self, lane: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Lane:
    """A method in a course.

    Lanes share the weights; each has an optimizer and a schedule of its own, at the run's learning rate if it has none.
    """

    method: Method
    learning_rate: float | None = None
    shares_optimizer: bool = False  # the first lane's moments, schedule and rate


@dataclass(frozen=True)
class Course:
    """Methods over time.

    Example:
        Course((Lane(sft(), 1e-5), Lane(grpo())), InOrder(first=0.3))      # SFT, then GRPO
    """

    lanes: tuple[Lane, ...]
    turn: Turn = field(default_factory=Only)
    run: Mapping[str, Any] = field(default_factory=dict)  # run options with which the paper got its numbers

    def __post_init__(self) -> None:
        if len(self.lanes) != self.turn.num_lanes:
            raise ValueError(f"{self.turn} moves between {self.turn.num_lanes} lanes, not {len(self.lanes)}")
        if self.lanes[0].shares_optimizer:
            raise ValueError("the first lane has nobody to share an optimizer with")
        if any(lane.shares_optimizer and lane.learning_rate is not None for lane in self.lanes):
            raise ValueError("a lane that shares the first one's optimizer has no learning rate of its own")

    @property
    def methods(self) -> tuple[Method, ...]:
        return tuple(lane.method for lane in self.lanes)

    def at(self, progress: float) -> tuple[int, ...]:
        """The lanes that may act at this point of the run: one of several in order, all that take turns."""
        if isinstance(self.turn, InOrder):
            return (self.turn.lane(Clock(progress=progress)),)
        return tuple(range(len(self.lanes)))

    @property
    def num_taken(self) -> int | None:
        """How many waiting problems a step of the second lane takes; None: it takes from the stream as the first."""
        return self.turn.num if isinstance(self.turn, WhenWaiting) else None

    def is_put_aside(self, group: Group) -> bool:
        """Whether a problem of the first lane waits for the second: all its samples failed, and somebody solved it."""
        failed = bool(group.of("rollout")) and group.num_correct == 0
        return self.num_taken is not None and failed and bool(group.problem.demonstration)


def as_course(made: Method | Course) -> Course:
    """A method alone is a course with one lane."""
    return made if isinstance(made, Course) else Course((Lane(made),), run=made.run)


def only(made: Method | Course) -> Method:
    """The method of a course that has one; ConfigError for others."""
    if isinstance(made, Course):
        raise ConfigError("a course of several methods cannot stand where one method is asked for")
    return made
