"""The loss on held-out demonstrations, by which a training schedule leaves its first stage (`UntilPlateau`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from obverse.errors import ConfigError
from obverse.estimator.schedule import TrainingSchedule
from obverse.models.batch import pack
from obverse.models.policy import logprobs
from obverse.training.run import Run
from obverse.types import Problem, Source

if TYPE_CHECKING:
    from obverse.config.train import TrainConfig


def check_held_out(config: TrainConfig, schedule: TrainingSchedule, held_out: Sequence[Problem]) -> None:
    """Raise ConfigError where a schedule needs held-out demonstrations and the run has none."""
    if schedule.plateau is not None and not any(problem.demonstration for problem in held_out):
        raise ConfigError(
            f"{config.method} with patience needs held-out problems with demonstrations, whose loss it measures: give "
            "--eval_dataset one with the column, or leave --patience out"
        )


def measure_if_due(run: Run) -> None:
    """Measure the validation loss before a step of the first stage, every `plateau.every` steps; all ranks call it."""
    plateau, state = run.schedule.plateau, run.state
    is_measured = state.validation.get("step") == state.step
    if plateau is None or is_measured or run.stage > 0 or state.step % plateau.every:
        return
    loss = run.process_group.broadcast(validation_loss(run))
    state.validation = plateau.observed(state.validation, state.step, loss)
    if run.stage > 0:
        run.watcher.note(
            f"step {state.step}: the validation loss, now {loss:.4f}, has not fallen below "
            f"{state.validation['lowest']:.4f} for {plateau.patience} measurements: the next stage begins"
        )


@torch.no_grad()
def validation_loss(run: Run) -> float:
    """The mean negative log-likelihood per token of the held-out demonstrations, in nats; every rank computes it."""
    policy, problems = run.learners[0].policy, [problem for problem in run.eval_problems if problem.demonstration]
    samples = run.collector.demonstrations(problems)
    update = pack([[sample] for sample in samples], frozenset({Source.DEMONSTRATION}))
    if update is None:
        raise ValueError("no held-out demonstration")
    total, num_tokens = 0.0, 0
    for micro in update.micros(run.learners[0].micro_batch_tokens):
        logp, _ = logprobs(policy, micro.to(policy.device))
        total -= float(logp.double().sum())
        num_tokens += len(logp)
    return total / num_tokens
