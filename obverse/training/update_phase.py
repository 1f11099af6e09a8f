"""The update phase of a step: pack the selected samples, prepare the updates, and step the optimizer on each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from obverse.estimator.method_state import memory_values, update_memory
from obverse.models.batch import Update, pack
from obverse.models.logit_chunks import wide_type
from obverse.runtime.callbacks import Watcher
from obverse.training import metrics
from obverse.training.prepared_update import prepare_updates
from obverse.training.rollout_phase import Rollouts
from obverse.training.run import Run
from obverse.training.update import optimizer_step, skip_update
from obverse.types import Group, Sample


class MiniBatch(NamedTuple):
    """The groups of some of a step's problems, and the samples of each that are trained on."""

    groups: list[Group]
    selected: list[list[Sample]]


def run_updates(run: Run, stage: int, rollouts: Rollouts, progress: float) -> tuple[metrics.Row, int]:
    """Train on the selected samples: `num_iterations` passes over `num_mini_batches` updates.

    Returns the mean figures of the updates and the number of trained tokens, counted once per pass.
    """
    config, learner = run.config, run.learners[stage]
    mini_batches = split_mini_batches(rollouts, config.num_mini_batches)
    updates = [pack_mini_batch(run, stage, mini_batch) for mini_batch in mini_batches]
    prepared_updates = prepare_updates(learner, updates, is_repeated=config.updates_per_step > 1)
    rows: list[metrics.Row] = []
    has_stepped = False
    for number, update in enumerate(prepared_updates * config.num_iterations):
        if update is None:
            rows.append(skip_update(learner))
            continue
        watcher = _phase_watcher(run, is_first=not rows)
        result = optimizer_step(learner, update, progress, watcher, is_first=not has_stepped)
        has_stepped = True
        if not config.async_sampling or run.state.step == 0:  # else an older policy has sampled
            run.mismatch.check(result.figures, run.watcher)
        rows.append(result.figures)
        if result.observed is not None and number < len(prepared_updates):  # in the first pass only
            observe_mini_batch(run, stage, mini_batches[number], result.observed)
    return metrics.mean(rows), config.num_iterations * sum(map(metrics.num_trained, updates))


def split_mini_batches(rollouts: Rollouts, num: int) -> list[MiniBatch]:
    """Split the problems of a step into `num` mini batches, each an update with its own normalizers.

    Problems with selected samples are dealt out first, so that every mini batch gets its part of them.
    """
    pairs = sorted(zip(rollouts.groups, rollouts.selected, strict=True), key=lambda pair: not pair[1])
    parts = [pairs[start::num] for start in range(num)]
    return [MiniBatch([group for group, _ in part], [samples for _, samples in part]) for part in parts]


def pack_mini_batch(run: Run, stage: int, mini_batch: MiniBatch) -> Update | None:
    """The selected samples of a mini batch as tables; None if there are none."""
    method, policy = run.schedule.methods[stage], run.learners[stage].policy
    memory = memory_values(method, run.state.memory, mini_batch.groups)
    dtype = wide_type(policy.model.dtype)
    return pack(mini_batch.selected, method.sources, run.config.temperature, memory, "score" in method.streams, dtype)


def observe_mini_batch(run: Run, stage: int, mini_batch: MiniBatch, observed: Sequence[float]) -> None:
    """Update the method's memory with what each selected sample of a mini batch showed, in order."""
    values = iter(observed)
    by_problem = [[next(values) for _ in samples] for samples in mini_batch.selected]
    update_memory(run.schedule.methods[stage], run.state.memory, mini_batch.groups, by_problem)


def _phase_watcher(run: Run, is_first: bool) -> Watcher:
    """The watcher for an update: a signal can only interrupt the first one, before the weights have moved.

    A checkpoint never holds half a step. With several ranks a signal waits from the start, because the other ranks
    would step without this one's gradient.
    """
    return run.watcher if is_first and run.process_group.is_alone else run.watcher.uninterruptible
