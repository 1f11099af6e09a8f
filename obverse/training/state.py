"""A run: its parts, where it stands, and what follows from both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from obverse.config.train import TrainConfig
from obverse.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from obverse.estimator.method import Method
from obverse.estimator.schedule import Clock, TrainingSchedule
from obverse.runtime.run_dir import RunFolder
from obverse.runtime.signals import SignalWatcher
from obverse.training.checkpoint_state import RunState
from obverse.training.collector import Collector
from obverse.training.grader_errors import GraderErrorLimit
from obverse.training.optimizer import Optimizer
from obverse.training.train_inference_kl import MismatchCheck
from obverse.training.update import Learner
from obverse.types import Problem


@dataclass
class Run:
    """The parts of one run, ready to step."""

    config: TrainConfig
    schedule: TrainingSchedule
    problems: Sequence[Problem]
    eval_problems: Sequence[Problem]
    collector: Collector
    learners: list[Learner]  # one per lane of the course; they share the networks
    folder: RunFolder
    total_steps: int
    watcher: SignalWatcher
    graders: GraderErrorLimit
    mismatch: MismatchCheck
    data: str = ""  # the fingerprint of its problems
    inputs: Mapping[str, str] = field(default_factory=dict)  # fingerprints of what it reads, by option
    process_group: ProcessGroup = SINGLE_PROCESS  # the ranks that share the run
    state: RunState = field(default_factory=RunState)
    saved_at: float = 0.0  # when the last checkpoint was written, by the monotonic clock
    resume_command: str = ""  # what goes on with it; "": obverse train, on its own config.yaml
    seconds: float = 0.0  # that the steps took; no part of the state, which is the same bit for bit in equal runs

    @property
    def budget_used(self) -> float:
        """What is gone of the budget, in its unit."""
        state = self.state
        amounts = {"tokens": state.num_tokens, "flops": state.flops, "seconds": self.seconds, "steps": state.step}
        return amounts[self.config.budget_in]

    @property
    def is_finished(self) -> bool:
        """All steps are done, or the budget is spent."""
        budget = self.config.budget
        return self.state.step >= self.total_steps or (budget is not None and self.budget_used >= budget)

    @property
    def expected_steps(self) -> int:
        """How many steps the run will take by what it has spent so far; a budget may end it early."""
        return min(self.total_steps, math.ceil(self.state.step / self.progress)) if self.progress else self.total_steps

    @property
    def progress(self) -> float:
        """The share of the run that is done, 0 to 1: by steps or by budget, whichever is nearer to its end."""
        budget_used = self.budget_used / self.config.budget if self.config.budget else 0.0
        return min(max(self.state.step / self.total_steps, budget_used), 1.0)

    @property
    def progress_after_step(self) -> float:
        """The progress that the run will have made after the step it is in, as far as that is known: by steps."""
        return min(max((self.state.step + 1) / self.total_steps, self.progress), 1.0)

    @cached_property
    def num_parameters(self) -> int:
        """The policy's, for what a token costs."""
        return self.learners[0].policy.num_parameters

    @property
    def stage(self) -> int:
        """Whose turn the next step is."""
        return self.schedule.selector.stage(Clock(self.state.step, self.progress, len(self.state.waiting)))

    @property
    def learner(self) -> Learner:
        return self.learners[self.stage]

    @property
    def method(self) -> Method:
        return self.schedule.methods[self.stage]

    def take_waiting(self) -> list[Problem]:
        """The problems that the second lane takes, the newest first; none where it takes from the stream.

        They go on waiting until its step is over: one that is broken off must not lose them.
        """
        num = self.schedule.num_waiting_per_step
        if num is None:
            return []
        by_name = {problem.id: problem for problem in self.problems}
        return [by_name[name] for name in reversed(self.state.waiting[-num:])]

    def optimizers(self) -> dict[str, Optimizer]:
        """Every optimizer under a name that a checkpoint keeps."""
        found = {f"lane-{stage}": learner.optimizer for stage, learner in enumerate(self.learners)}
        if len({id(each) for each in found.values()}) < len(found):
            found = {"lane-0": found["lane-0"]}
        critic = next((learner.critic for learner in self.learners if learner.critic), None)
        return found | ({"critic": critic.optimizer} if critic else {})

    def models(self) -> dict[str, Any]:
        """The networks that learn, by their folder in a checkpoint."""
        critic = next((learner.critic for learner in self.learners if learner.critic), None)
        return {"": self.learners[0].policy.kept} | ({"critic": critic.model} if critic else {})
