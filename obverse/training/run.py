"""A run: its parts, its state, and what follows from both; and what a run is assembled from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from obverse.config.train import TrainConfig
from obverse.data.teacher_prompts import TeacherPrompts
from obverse.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from obverse.estimator.method import Method
from obverse.estimator.schedule import Clock, TrainingSchedule
from obverse.inference.scoring import TokenScorer
from obverse.runtime.callbacks import RunEvents
from obverse.runtime.run_dir import RunFolder
from obverse.runtime.signals import SignalWatcher
from obverse.runtime.trackers.trackers import Trackers
from obverse.training.build_models import AVERAGE
from obverse.training.collector import Collector
from obverse.training.grader_errors import GraderErrorLimit
from obverse.training.learners import Learner
from obverse.training.optimizer import Optimizer
from obverse.training.run_state import RunState
from obverse.training.teacher_options import teacher_of_row
from obverse.training.train_inference_kl import MismatchCheck
from obverse.types import Problem


@dataclass(frozen=True)
class RunSetup:
    """What a run is assembled from: its options and data, checked, and its run folder, locked."""

    config: TrainConfig
    schedule: TrainingSchedule
    problems: list[Problem]
    eval_problems: list[Problem]
    data: str  # the fingerprint of `problems`
    inputs: Mapping[str, str]  # fingerprints of everything that the run reads, by option
    folder: RunFolder
    watcher: SignalWatcher
    process_group: ProcessGroup = SINGLE_PROCESS
    teacher_prompts: TeacherPrompts | None = None  # renders the prompts that teachers read; None: no teacher
    scorers: Mapping[str, TokenScorer] = field(default_factory=dict)  # of a teacher behind a server


@dataclass
class Run:
    """The parts of one run and its state; `training.loop` moves it forward."""

    config: TrainConfig
    schedule: TrainingSchedule
    problems: Sequence[Problem]
    eval_problems: Sequence[Problem]
    collector: Collector
    learners: list[Learner]  # one per stage of the schedule; they share the models
    folder: RunFolder
    total_steps: int
    watcher: SignalWatcher
    graders: GraderErrorLimit
    mismatch: MismatchCheck
    data: str = ""  # the fingerprint of `problems`
    inputs: Mapping[str, str] = field(default_factory=dict)  # fingerprints of everything that the run reads, by option
    process_group: ProcessGroup = SINGLE_PROCESS  # the ranks that share the run
    state: RunState = field(default_factory=RunState)
    saved_at: float = 0.0  # when the last checkpoint was written, by the monotonic clock
    resume_command: str = ""  # the command that resumes the run; "": obverse train on its own config.yaml
    trackers: Trackers = field(default_factory=Trackers)  # of the first rank
    events: RunEvents | None = None  # the callbacks of a Python call; on all ranks or on none
    teacher_prompts: TeacherPrompts | None = None  # renders the prompts that teachers read; None: no teacher
    seconds: float = 0.0  # that the steps took; not in `state`, which equal runs have bit for bit

    @property
    def budget_used(self) -> float:
        """How much of the budget is used, in the unit `budget_in`."""
        state = self.state
        used = {"tokens": state.num_tokens, "flops": state.flops, "seconds": self.seconds, "steps": state.step}
        return used[self.config.budget_in]

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done or the budget is used up."""
        budget = self.config.budget
        return self.state.step >= self.total_steps or (budget is not None and self.budget_used >= budget)

    @property
    def expected_steps(self) -> int:
        """How many steps the run will take, extrapolated from the budget used so far; at most `total_steps`."""
        return min(self.total_steps, math.ceil(self.state.step / self.progress)) if self.progress else self.total_steps

    @property
    def progress(self) -> float:
        """The fraction of the run that is done, 0 to 1: the larger one of steps and budget."""
        used = self.budget_used / self.config.budget if self.config.budget else 0.0
        return min(max(self.state.step / self.total_steps, used), 1.0)

    @property
    def progress_after_step(self) -> float:
        """The progress after the current step; how much of the budget that step will use is not counted."""
        return min(max((self.state.step + 1) / self.total_steps, self.progress), 1.0)

    @cached_property
    def num_parameters(self) -> int:
        """The number of the policy's parameters, for the FLOPs per token."""
        return self.learners[0].policy.num_parameters

    @property
    def stage(self) -> int:
        """The stage of the schedule that the next step belongs to."""
        num_not_lower = int(self.state.validation.get("num_not_lower", 0))
        clock = Clock(self.state.step, self.progress, len(self.state.waiting), num_not_lower)
        return self.schedule.selector.stage(clock)

    @property
    def learner(self) -> Learner:
        """The learner of the current stage."""
        return self.learners[self.stage]

    @property
    def method(self) -> Method:
        """The method of the current stage."""
        return self.schedule.methods[self.stage]

    def teacher_name(self, problem: Problem) -> str:
        """The teacher of a problem by the value of its field --teacher_field; "" without that option."""
        return teacher_of_row(problem, self.config.teacher_field)

    def newest_waiting(self) -> list[Problem]:
        """The problems that a step of the second stage takes from the queue, the newest first; [] if it has no queue.

        They stay in the queue until the step is finished, so that an interrupted step does not lose them.
        """
        num = self.schedule.num_waiting_per_step
        if num is None:
            return []
        by_name = {problem.id: problem for problem in self.problems}
        return [by_name[name] for name in reversed(self.state.waiting[-num:])]

    def optimizers(self) -> dict[str, Optimizer]:
        """Every optimizer by its name in a checkpoint: `lane-N` for stage N, and `critic`."""
        optimizers = {f"lane-{stage}": learner.optimizer for stage, learner in enumerate(self.learners)}
        if len({id(optimizer) for optimizer in optimizers.values()}) < len(optimizers):
            optimizers = {"lane-0": optimizers["lane-0"]}
        critic = next((learner.critic for learner in self.learners if learner.critic), None)
        return optimizers | ({"critic": critic.optimizer} if critic else {})

    def models(self) -> dict[str, Any]:
        """The models that are trained, by their folder in a checkpoint; "" is the policy."""
        critic = next((learner.critic for learner in self.learners if learner.critic), None)
        average = self.learners[0].average
        models = {"": self.learners[0].policy.savable} | ({"critic": critic.model} if critic else {})
        return models | ({AVERAGE: average.teacher.savable} if average else {})
