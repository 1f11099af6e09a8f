"""The training loop: rollouts, updates, evaluations and checkpoints, step by step, independent of method names."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from obverse.config.train import TrainConfig
from obverse.distributed.env import launcher
from obverse.distributed.fsdp import unsharded
from obverse.distributed.launch import join_process_group
from obverse.errors import DivergedError, EngineError, GraderError, PeerError, StorageError, UserError
from obverse.evaluation.evaluate import Report
from obverse.evaluation.sample_and_score import EvalSetup, measure
from obverse.inference.build import clear
from obverse.python_files import read_once
from obverse.runtime import checkpoint
from obverse.runtime.callbacks import RunEvents, Silent, Watcher
from obverse.runtime.file_writes import DISK_ERRNOS
from obverse.runtime.signals import NOT_SAVED, Interrupted, SignalWatcher
from obverse.training import metrics
from obverse.training.banner import facts
from obverse.training.cuda_memory_snapshot import recorded
from obverse.training.metrics import PhaseTimer
from obverse.training.mismatched_kl import scoring_cost
from obverse.training.notify import CallbackFailure, notify
from obverse.training.replay_phase import updated_replay
from obverse.training.rollout_phase import Rollouts, collect_rollouts
from obverse.training.run import Run
from obverse.training.save import save
from obverse.training.setup import prepare
from obverse.training.stages import advance_idle_schedules, queue_for_next_stage, start_stage
from obverse.training.step_record import metrics_row, write_step
from obverse.training.teacher_scores import TeacherScores, score_rollouts, with_divergence
from obverse.training.tracking import start_trackers
from obverse.training.update_phase import run_updates
from obverse.training.validation_loss import measure_if_due

FAILED = 1  # the exit code of a run that an error ended, for its trackers
ROUNDING = 1e-9  # so that three times a third of the run is the whole run


@dataclass(frozen=True)
class Outcome:
    """The end of a run: its folder, its last step, and whether a signal ended it (then with which exit code)."""

    folder: Path
    step: int
    stopped: bool = False
    exit_code: int = 0


@read_once()
def train(
    config: TrainConfig,
    watcher: Watcher | None = None,
    expected: Mapping[str, str] | None = None,
    resume_command: str = "",
    events: RunEvents | None = None,
) -> Outcome:
    """Train as `config` says. Every rank of a process group calls it with the same `config`.

    `expected`: fingerprints by option (obverse.training.input_fingerprints) of the inputs that the run must have;
    ConfigError if one differs.
    `resume_command`: the command that messages give to resume the run, if not `obverse train` on the run itself.
    `events`: the callbacks of a Python call. If one raises an exception, it is raised after a checkpoint was saved.

    SIGINT and SIGTERM save a checkpoint of the last whole step and end the run with exit code 130 or 143. Raises the
    errors of obverse.errors; checkpoints that were saved before stay.
    """
    with (
        join_process_group(config.ddp_timeout, config.device) as process_group,
        SignalWatcher(watcher or Silent(), process_group).handling_signals() as signal_watcher,
    ):
        run = prepare(config, signal_watcher, process_group, expected)
        run.resume_command, run.events = resume_command, events
        exit_code = FAILED
        process_group.set_recovery_advice(lambda: last_checkpoint_unchecked(run))
        try:
            signal_watcher.banner(facts(run))
            run.trackers = start_trackers(run)
            outcome = train_loop(run)
            exit_code = outcome.exit_code
            return outcome
        except KeyboardInterrupt as error:
            if signal_watcher.received is None:
                raise
            process_group.announce_failure(error, NOT_SAVED)
            signal_watcher.note(
                f"stopped by a second signal before step {run.state.step} was saved; {last_checkpoint(run)}"
            )
            return Outcome(run.folder.path, run.state.step, stopped=True, exit_code=NOT_SAVED)
        finally:
            run.trackers.close(exit_code, is_stopped=lambda: signal_watcher.received is not None)
            if process_group.is_first:
                clear(run.folder.path)
            run.folder.release()


def train_loop(run: Run) -> Outcome:
    """Train until the run is finished or a signal stops it, with evaluations and checkpoints; errors name the step."""
    run.saved_at = time.monotonic()
    try:
        notify(run, lambda events: events.train_begin(run.folder.path))
        while not run.is_finished:
            evaluate_if_due(run)
            measure_if_due(run)
            is_recorded = run.process_group.is_first and run.state.step + 1 == run.config.memory_snapshot
            with recorded(run.folder.path, is_recorded):
                row = train_step(run)
            notify_step_end(run, row)
            if is_save_due(run) and not run.is_finished:
                save_and_notify(run)
                run.saved_at = time.monotonic()
        save_and_notify(run)
        evaluate_if_due(run)
    except Interrupted as stop:
        path = save_and_notify(run)
        run.watcher.note(f"stopped by {stop} after step {run.state.step}; saved {path}")
        run.watcher.note(f"go on with: {resume_command(run)}")
        return Outcome(run.folder.path, run.state.step, stopped=True, exit_code=stop.exit_code)
    except CallbackFailure as failure:
        run.watcher.note(f"stopped by an exception of a callback after step {run.state.step}; saved {save(run)}")
        raise failure.original() from None
    except OSError as error:  # of metrics and samples; errors of checkpoints are StorageErrors already
        if error.errno not in DISK_ERRNOS:
            raise
        raise storage_error(run, error) from error
    except (FloatingPointError, DivergedError, GraderError, PeerError, EngineError) as error:
        # with async_sampling, completions that were lost could not be sampled again from the weights of that time
        if isinstance(error, EngineError) and run.process_group.is_alone and not run.config.async_sampling:
            save(run)
        raise step_error(run, error) from error
    return Outcome(run.folder.path, run.state.step)


def train_step(run: Run) -> metrics.Row:
    """One training step: rollouts are collected, graded and selected; updates train on them; the step is recorded.

    Returns its row of metrics.jsonl.
    A step that is interrupted before its first optimizer step leaves the run as it was.
    """
    timer, stage = PhaseTimer(), start_stage(run)
    progress = run.schedule.selector.progress(stage, run.progress)
    rollouts = collect_rollouts(run, stage, progress, timer)  # sample, grade, select
    scores = score_rollouts(run, stage, rollouts, timer)  # the column `teacher`, for methods with one
    with timer("train"):
        figures, num_trained = run_updates(run, stage, rollouts, progress)  # pack, prepare, backward, optimizer step
    scores = with_divergence(run, stage, scores, num_trained)
    run.state.replay = updated_replay(run, stage, rollouts.groups)
    count_step(run, stage, rollouts, num_trained, scores)
    queue_for_next_stage(run, stage, rollouts)
    advance_idle_schedules(run, stage)
    timer.seconds = run.process_group.broadcast(timer.seconds)  # so that a budget in seconds ends on all ranks at once
    row = metrics_row(run, stage, rollouts, figures, num_trained, timer, scores)
    run.seconds += row["step_time"]
    run.process_group.heartbeat(step=run.state.step)
    write_step(run, rollouts, row)
    return row


def notify_step_end(run: Run, row: metrics.Row) -> None:
    """Call the callbacks with the row of the step that was trained."""
    notify(run, lambda events: events.step_end(run.state.step, row))


def save_and_notify(run: Run) -> Path:
    """Save a checkpoint and call the callbacks with its folder, which is returned."""
    path = save(run)
    notify(run, lambda events: events.save(run.state.step, path))
    return path


def count_step(run: Run, stage: int, rollouts: Rollouts, num_trained: int, scores: TeacherScores) -> None:
    """Count the problems, tokens and operations of a step in the run's state; a teacher's and kto's scores count."""
    num_generated = metrics.num_generated(rollouts.groups)
    tokens_of_kl, flops_of_kl = scoring_cost(run.learners[stage], num_trained)
    run.state.finish_step(
        progress=run.progress,
        num_problems=rollouts.num_taken,
        num_tokens=num_generated + num_trained + scores.num_tokens + tokens_of_kl,
        flops=metrics.num_flops(run.num_parameters, num_generated, num_trained) + scores.flops + flops_of_kl,
    )


def is_at_interval(interval: float, run: Run) -> bool:
    """Whether the run is at a multiple of `interval`: in steps or, below 1, as a fraction of the run's progress."""
    if interval >= 1 or run.state.step == 0:
        return interval > 0 and run.state.step % max(interval, 1) == 0
    previous = int(run.state.previous_progress / interval + ROUNDING) if interval > 0 else 0
    return interval > 0 and int(run.progress / interval + ROUNDING) > previous


def is_save_due(run: Run) -> bool:
    """Whether to save a checkpoint after a step: at a multiple of save_steps, or save_minutes after the last one.

    The clocks of ranks differ, so the first rank decides.
    """
    config = run.config
    is_late = config.save_minutes > 0 and time.monotonic() - run.saved_at >= 60 * config.save_minutes
    return is_at_interval(config.save_steps, run) or (config.save_minutes > 0 and run.process_group.broadcast(is_late))


def evaluate_if_due(run: Run) -> None:
    """Evaluate the policy on the held-out problems at every multiple of eval_steps, step 0 and the last step included.

    The result is a file of its own, so an interruption loses nothing but the evaluation.
    """
    config, collector, step = run.config, run.collector, run.state.step
    name, num = f"eval/step-{step:06d}.json", config.num_generations_eval
    is_due = run.is_finished or is_at_interval(config.eval_steps, run)
    if not run.eval_problems or not is_due or run.process_group.broadcast((run.folder.path / name).exists()):
        return
    collector.sampler.sync_weights(step)
    with unsharded(*collector.models):
        setup = EvalSetup(collector.sampler, collector.renderer, collector.params, num, config.seed)
        scores = measure(run.eval_problems, setup, run.watcher, run.process_group)
    report = Report(f"step {step}", scores, k=(1, num) if num > 1 else (1,))
    summary = report.summary()
    run.folder.write_json(name, summary)
    run.trackers.log_evaluation(step, run.state.num_tokens, summary)
    notify(run, lambda events: events.evaluate(step, summary))
    run.watcher.note(f"step {step}: {report.pass_at(1):.1%} of {len(scores)} held-out problems solved (pass@1)")


def storage_error(run: Run, error: OSError) -> StorageError:
    """A disk error with the step, the file, and how the run is resumed."""
    path = error.filename or f"a file of {run.folder.path}"
    return StorageError(
        f"step {run.state.step}: {path} cannot be written: {error.strerror}: free some space; {last_checkpoint(run)}"
    )


def step_error(run: Run, error: FloatingPointError | UserError) -> UserError:
    """The same error with the step that it ended, and how the run is resumed."""
    kind = type(error) if isinstance(error, UserError) else DivergedError
    checkpoint_to_use = last_checkpoint_unchecked(run) if isinstance(error, PeerError) else last_checkpoint(run)
    return kind(f"step {run.state.step + 1}: {error}; {checkpoint_to_use}")


def last_checkpoint(run: Run) -> str:
    """A sentence with the newest intact checkpoint of the run and the command that resumes it."""
    path = checkpoint.newest(run.folder.path, run.folder.run_id())
    return f"{path} is kept, go on with: {resume_command(run)}" if path else "no checkpoint was saved yet"


def last_checkpoint_unchecked(run: Run) -> str:
    """As `last_checkpoint`, without the time that reading the checkpoint takes; it is checked when the run resumes."""
    folders = checkpoint.folders(run.folder.path)
    if not folders:
        return "no checkpoint was saved yet"
    return f"the last checkpoint is {folders[-1]}, go on with: {resume_command(run)}"


def resume_command(run: Run) -> str:
    """The shell command that resumes a run, with as many processes."""
    config = quote(str(run.folder.path / "config.yaml"))
    return run.resume_command or f"{launcher()} train --config {config} --resume_from_checkpoint auto"
