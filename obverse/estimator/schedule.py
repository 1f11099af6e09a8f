"""Training schedules: several methods in one run, one after another, alternating, or triggered by waiting problems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from obverse.errors import ConfigError
from obverse.estimator.method import Method
from obverse.estimator.parts.interfaces import Named
from obverse.notebook_html import block, paragraph, text
from obverse.types import Group


@dataclass(frozen=True)
class Clock:
    """The state of a run by which the next stage is selected."""

    step: int = 0
    progress: float = 0.0  # 0 to 1
    num_waiting: int = 0  # unsolved problems that wait for the second stage
    num_not_lower: int = 0  # measurements in a row of a validation loss that was not below the lowest one


class StageSelector(Protocol):
    """Selects the stage of the next step."""

    num_stages: int
    fresh_anchor: bool  # a later stage takes the policy that it starts from as its anchor

    def stage(self, clock: Clock) -> int:
        """The index of the stage."""

    def progress(self, stage: int, progress: float) -> float:
        """The stage's own progress, 0 to 1, at the run's `progress`."""

    def span(self, stage: int) -> float:
        """The fraction of the run's steps that the stage's learning rate schedule is planned for."""


@dataclass(frozen=True)
class Only(Named):
    """One stage for the whole run."""

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
    """Two stages in sequence; the first takes the fraction `first` of the run. Each has its own progress from 0 to 1.

    The second starts with a fresh optimizer and learning rate schedule, and the policy at that point is its anchor.
    """

    first: float = 0.5
    num_stages = 2
    fresh_anchor = True

    def __post_init__(self) -> None:
        if not 0 < self.first < 1:
            raise ValueError(f"the first stage gets a fraction of the run between 0 and 1, not {self.first:g}")

    def stage(self, clock: Clock) -> int:
        return int(clock.progress >= self.first)

    def progress(self, stage: int, progress: float) -> float:
        begin, length = (0.0, self.first) if stage == 0 else (self.first, 1 - self.first)
        return min(max((progress - begin) / length, 0.0), 1.0)

    def span(self, stage: int) -> float:
        return self.first if stage == 0 else 1 - self.first


@dataclass(frozen=True)
class UntilPlateau(Named):
    """Two stages in sequence; the second begins when the validation loss has stopped falling, at `first` at the latest.

    The loss on held-out demonstrations is measured every `every` steps of the first stage. It has stopped falling
    once `patience` measurements in a row are not below the lowest one before. The second stage starts with a fresh
    optimizer, and the policy at that point is its anchor. Neither length is known in advance: the learning-rate
    schedule of the first stage is planned for the fraction `first` of the run, that of the second for the whole run,
    so that neither ends early; the second has the run's progress. Source: after 2512.11470 [abs]; patience and
    interval are ours.
    """

    first: float = 0.5
    patience: int = 3
    every: int = 10
    num_stages = 2
    fresh_anchor = True

    def __post_init__(self) -> None:
        if not 0 < self.first < 1 or self.patience < 1 or self.every < 1:
            raise ValueError("the first stage gets a fraction of the run, and patience and interval are at least 1")

    def stage(self, clock: Clock) -> int:
        return int(clock.num_not_lower >= self.patience or clock.progress >= self.first)

    def progress(self, stage: int, progress: float) -> float:
        return min(progress / self.first, 1.0) if stage == 0 else progress

    def span(self, stage: int) -> float:
        return self.first if stage == 0 else 1.0

    def observed(self, state: Mapping[str, float], step: int, loss: float) -> dict[str, float]:
        """The state of the measurements after `loss` at `step`: step, loss, lowest loss, and `num_not_lower`."""
        lowest = state.get("lowest", loss)
        is_lower = not state or loss < lowest
        num_not_lower = 0 if is_lower else state["num_not_lower"] + 1
        return {"step": step, "loss": loss, "lowest": min(loss, lowest), "num_not_lower": num_not_lower}


@dataclass(frozen=True)
class InTurns(Named):
    """Alternates `first` steps of the first stage and `second` steps of the second; both have the run's progress."""

    first: int = 1
    second: int = 1
    num_stages = 2
    fresh_anchor = False

    def __post_init__(self) -> None:
        if min(self.first, self.second) < 1:
            raise ValueError("each stage needs at least one step at a time")

    def stage(self, clock: Clock) -> int:
        return int(clock.step % (self.first + self.second) >= self.first)

    def progress(self, stage: int, progress: float) -> float:
        return progress

    def span(self, stage: int) -> float:
        return (self.first, self.second)[stage] / (self.first + self.second)


@dataclass(frozen=True)
class WhenWaiting(Named):
    """The first stage, and a step of the second once `num` problems wait; it trains on those, the newest first."""

    num: int = 128
    num_stages = 2
    fresh_anchor = False

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError("the second stage needs at least one waiting problem")

    def stage(self, clock: Clock) -> int:
        return int(clock.num_waiting >= self.num)

    def progress(self, stage: int, progress: float) -> float:
        return progress

    def span(self, stage: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Stage:
    """A method in a training schedule.

    Stages share the weights. Each has its own optimizer and learning rate schedule, with the run's learning rate by
    default.
    """

    method: Method
    learning_rate: float | None = None
    shares_optimizer: bool = False  # use the optimizer and learning rate of the first stage


@dataclass(frozen=True)
class TrainingSchedule:
    """The stages of a run and the selector of the next one.

    Example:
        TrainingSchedule((Stage(sft(), 1e-5), Stage(grpo())), InOrder(first=0.3))      # SFT, then GRPO
    """

    stages: tuple[Stage, ...]
    selector: StageSelector = field(default_factory=Only)
    run: Mapping[str, Any] = field(default_factory=dict)  # run options with which the paper got its numbers

    def __post_init__(self) -> None:
        if len(self.stages) != self.selector.num_stages:
            raise ValueError(f"{self.selector} selects among {self.selector.num_stages} stages, not {len(self.stages)}")
        if self.stages[0].shares_optimizer:
            raise ValueError("the first stage cannot share an optimizer: later stages share its optimizer")
        if any(stage.shares_optimizer and stage.learning_rate is not None for stage in self.stages):
            raise ValueError("a stage that shares the first one's optimizer has no learning rate of its own")

    def _repr_html_(self) -> str:
        """The schedule in a notebook: its selector, and the method of each stage."""
        stages = [paragraph(f"stage {index}") + method._repr_html_() for index, method in enumerate(self.methods)]
        return block(paragraph(text(self.selector)), *stages)

    @property
    def methods(self) -> tuple[Method, ...]:
        return tuple(stage.method for stage in self.stages)

    def at(self, progress: float) -> tuple[int, ...]:
        """The indices of the stages that may be selected at this point of the run: one for `InOrder`, else all."""
        if isinstance(self.selector, InOrder):
            return (self.selector.stage(Clock(progress=progress)),)
        return tuple(range(len(self.stages)))

    @property
    def plateau(self) -> UntilPlateau | None:
        """The selector, if it reads a validation loss."""
        return self.selector if isinstance(self.selector, UntilPlateau) else None

    @property
    def num_waiting_per_step(self) -> int | None:
        """The waiting problems that a step of the second stage takes; None: it takes new problems like the first."""
        return self.selector.num if isinstance(self.selector, WhenWaiting) else None

    def is_waiting(self, group: Group) -> bool:
        """Whether a problem waits for the second stage: none of its rollouts is correct, and it has a demonstration."""
        failed = bool(group.of("rollout")) and group.num_correct == 0
        return self.num_waiting_per_step is not None and failed and bool(group.problem.demonstration)


def as_schedule(method: Method | TrainingSchedule) -> TrainingSchedule:
    """A training schedule as it is, or a method as a schedule with one stage."""
    return method if isinstance(method, TrainingSchedule) else TrainingSchedule((Stage(method),), run=method.run)


def only(method: Method | TrainingSchedule) -> Method:
    """The method itself; ConfigError for a training schedule."""
    if isinstance(method, TrainingSchedule):
        raise ConfigError("a training schedule of several methods cannot be used where one method is expected")
    return method
