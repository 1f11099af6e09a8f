"""The record of a step: its row of metrics.jsonl, its samples, and what the user sees of it."""

from __future__ import annotations

from obverse.estimator.method_state import RUN
from obverse.training import metrics
from obverse.training.grader_errors import sum_counts
from obverse.training.metrics import PhaseTimer, Row
from obverse.training.rollout_phase import Rollouts
from obverse.training.run import Run
from obverse.training.teacher_scores import TeacherScores
from obverse.training.tracking import track_step


def metrics_row(
    run: Run,
    stage: int,
    rollouts: Rollouts,
    update_figures: Row,
    num_trained: int,
    timer: PhaseTimer,
    scores: TeacherScores,
) -> Row:
    """The row of metrics.jsonl for the step that the run has just finished."""
    state, method = run.state, run.schedule.methods[stage]
    num_generated = metrics.num_generated(rollouts.groups)
    is_staged, is_async = len(run.schedule.stages) > 1, run.config.async_sampling
    has_memory = method.memory is not None and RUN in state.memory
    return {
        "step": state.step,
        "num_tokens": state.num_tokens,
        "flops": state.flops,
        **metrics.rollout_metrics(rollouts.groups, rollouts.selected),
        **({} if method.follow_up is None else metrics.follow_up_metrics(rollouts.groups)),
        **update_figures,
        **sum_counts(rollouts.grader_errors),
        **timer.row(num_generated, num_trained),
        **metrics.peak_memory(run.learners[stage].policy.device),
        "tokens/generated": num_generated,
        "tokens/trained": num_trained,
        **({} if method.teacher is None else {**scores.row(), **metrics.teacher_metrics(rollouts.selected)}),
        **({"lane": stage} if is_staged else {}),
        **({"validation/loss": state.validation["loss"]} if state.validation and stage == 0 else {}),
        **(metrics.staleness(rollouts.groups, state.step - 1) if is_async else {}),
        **({} if method.replay is None else method.replay.figures(state.replay, rollouts.groups, state.step - 1)),
        **({"memory": state.memory[RUN]} if has_memory else {}),
    }


def write_step(run: Run, rollouts: Rollouts, row: Row) -> None:
    """Write the row and, with `log_completions`, the samples; report the step every `logging_steps` steps."""
    config, step = run.config, run.state.step
    run.folder.append_metrics(row)
    if config.log_completions:
        run.folder.write_samples(step, rollouts.groups, rollouts.selected_ids())
    if step % config.logging_steps == 0 or run.is_finished:
        run.watcher.step(step, run.expected_steps, row)
        track_step(run, rollouts.groups, row)
        samples = [sample for group in rollouts.groups for sample in group.samples]
        for sample in samples[: config.num_completions_to_print]:
            run.watcher.note(f"{sample.kind}, reward {sample.reward:g}: {sample.text}")
