"""The loop, read top to bottom: a problem becomes a gradient. It knows no method by name."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from obverse.config.train import TrainConfig
from obverse.distributed.env import launcher
from obverse.distributed.fsdp import whole
from obverse.distributed.launch import joined
from obverse.errors import DivergedError, EngineError, GraderError, PeerError, StorageError
from obverse.estimator.method_state import RUN, memory_values, update_memory
from obverse.evaluation.evaluate import Report
from obverse.evaluation.sample_and_score import measure_shared
from obverse.inference.build import clear
from obverse.models.batch import pack
from obverse.models.fused_logprobs import wide_type
from obverse.python_files import read_once
from obverse.runtime import checkpoint
from obverse.runtime.callbacks import Silent, Watcher
from obverse.runtime.file_writes import DISK_ERRNOS
from obverse.runtime.signals import NOT_SAVED, Interrupted, SignalWatcher
from obverse.training import metrics
from obverse.training.banner import facts
from obverse.training.cuda_memory_snapshot import recorded
from obverse.training.grader_errors import sum_counts
from obverse.training.rollout_phase import Rollouts, collect_rollouts
from obverse.training.save import save
from obverse.training.setup import prepare, start_stage
from obverse.training.state import Run
from obverse.training.update import optimizer_step, prepare_updates, skip_update
from obverse.types import Group

ROUNDING = 1e-9  # so that a third of the run three times is the run


@dataclass(frozen=True)
class Outcome:
    """What is left of a run: its folder, its last step, and whether a signal ended it (then with which exit code)."""

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
) -> Outcome:
    """Train as `config` says; returns where the run is. Every rank of a team calls it, with the same `config`.

    `expected`: fingerprints by option (obverse.training.input_fingerprints) of what the run must read; ConfigError
    where one differs.
    `resume_command` is what messages tell a user to go on with, where that is not `obverse train` on the run itself.

    SIGINT and SIGTERM save a checkpoint of the last whole step and end the run with exit code 130 or 143. Raises the
    errors of obverse.errors; whatever was saved before stays.
    """
    with (
        joined(config.ddp_timeout, config.device) as process_group,
        SignalWatcher(watcher or Silent(), process_group).handling_signals() as signal_watcher,
    ):
        run = prepare(config, signal_watcher, process_group, expected)
        run.resume_command = resume_command
        process_group.when_lost(lambda: recovery_advice_unchecked(run))
        try:
            signal_watcher.banner(facts(run))
            return train_loop(run)
        except KeyboardInterrupt as error:
            if signal_watcher.received is None:
                raise
            process_group.give_up(error, NOT_SAVED)
            signal_watcher.note(
                f"stopped by a second signal before step {run.state.step} was saved; {recovery_advice(run)}"
            )
            return Outcome(run.folder.path, run.state.step, stopped=True, exit_code=NOT_SAVED)
        finally:
            if process_group.is_first:
                clear(run.folder.path)
            run.folder.release()


def train_loop(run: Run) -> Outcome:
    """All steps that are left, with their evaluations and checkpoints."""
    run.saved_at = time.monotonic()
    try:
        while not run.is_finished:
            evaluate_at_interval(run)
            with recorded(
                run.folder.path, run.process_group.is_first and run.state.step + 1 == run.config.memory_snapshot
            ):
                train_step(run)
            if is_save_due(run) and not run.is_finished:
                save(run)
                run.saved_at = time.monotonic()
        save(run)
        evaluate_at_interval(run)
    except Interrupted as stop:
        path = save(run)
        run.watcher.note(f"stopped by {stop} after step {run.state.step}; saved {path}")
        run.watcher.note(f"go on with: {resume_command(run)}")
        return Outcome(run.folder.path, run.state.step, stopped=True, exit_code=stop.exit_code)
    except FloatingPointError as error:
        raise DivergedError(f"step {run.state.step + 1}: {error}; {recovery_advice(run)}") from None
    except OSError as error:  # rows and completions; a checkpoint's errors are sentences already
        if error.errno not in DISK_ERRNOS:
            raise
        what = error.filename or f"a file of {run.folder.path}"
        raise StorageError(
            f"step {run.state.step}: {what} cannot be written: {error.strerror}: make room; {recovery_advice(run)}"
        ) from error
    except PeerError as error:
        raise PeerError(f"step {run.state.step + 1}: {error}; {recovery_advice_unchecked(run)}") from None
    except (DivergedError, GraderError) as error:
        raise type(error)(f"step {run.state.step + 1}: {error}; {recovery_advice(run)}") from error
    except EngineError as error:
        if (
            run.process_group.is_alone and not run.config.async_sampling
        ):  # ahead, what was lost cannot be drawn again later
            save(run)
        raise EngineError(f"step {run.state.step + 1}: {error}; {recovery_advice(run)}") from error
    return Outcome(run.folder.path, run.state.step)


def recovery_advice(run: Run) -> str:
    """What is left of a run that ends before its time, and how it goes on."""
    last = checkpoint.newest(run.folder.path, run.folder.run())
    return f"{last} is kept, go on with: {resume_command(run)}" if last else "no checkpoint was saved yet"


def recovery_advice_unchecked(run: Run) -> str:
    """As `kept`, of whatever stands there: what has no time to be read back is read when the run goes on."""
    folders = checkpoint.folders(run.folder.path)
    last = folders[-1] if folders else None
    return (
        f"the last checkpoint is {last}, go on with: {resume_command(run)}" if last else "no checkpoint was saved yet"
    )


def resume_command(run: Run) -> str:
    """The words that go on with a run, with as many processes."""
    config = quote(str(run.folder.path / "config.yaml"))
    return run.resume_command or f"{launcher()} train --config {config} --resume_from_checkpoint auto"


def train_step(run: Run) -> None:
    """One step: take problems, sample, judge, keep, pack, learn, write."""
    config, state, clock = run.config, run.state, metrics.PhaseTimer()
    stage = start_stage(run)
    method, progress = run.schedule.methods[stage], run.schedule.selector.progress(stage, run.progress)
    gathered = collect_rollouts(run, stage, progress, clock)
    groups, selected = gathered.groups, gathered.kept
    with clock("train"):
        learned, num_trained = run_updates(run, stage, gathered, progress)
    num_generated, state.before = metrics.num_generated(groups), run.progress
    num_tokens = num_generated + num_trained
    state.step, state.cursor = state.step + 1, state.cursor + gathered.num_taken
    state.num_tokens += num_tokens
    state.flops += metrics.num_flops(run.num_parameters, num_generated, num_trained)
    state.waiting = [name for name in state.waiting if name not in gathered.waited]
    if stage == 0:
        queue_failed_problems(run, groups)
    advance_schedules(run, stage)
    clock.seconds = run.process_group.broadcast(clock.seconds)  # a budget in seconds is over for all ranks at once
    row = {"step": state.step, "num_tokens": state.num_tokens, "flops": state.flops}
    row |= {
        **metrics.rollout_metrics(groups, selected),
        **learned,
        **sum_counts(gathered.reasons),
        **clock.row(num_tokens),
    }
    row |= {"tokens/generated": num_generated, "tokens/trained": num_trained}
    row |= {"lane": stage} if len(run.schedule.stages) > 1 else {}
    row |= metrics.staleness(groups, state.step - 1) if config.async_sampling else {}
    run.seconds += row["step_time"]
    run.process_group.beat(step=state.step)
    if method.memory is not None and RUN in state.memory:
        row["memory"] = state.memory[RUN]
    run.folder.append_metrics(row)
    if config.log_completions:
        run.folder.write_samples(state.step, groups, {id(sample) for samples in selected for sample in samples})
    if state.step % config.logging_steps == 0 or run.is_finished:
        run.watcher.step(state.step, run.expected_steps, row)
        for sample in [sample for group in groups for sample in group.samples][: config.num_completions_to_print]:
            run.watcher.note(f"{sample.kind}, reward {sample.reward:g}: {sample.text}")


def run_updates(run: Run, stage: int, gathered: Rollouts, progress: float) -> tuple[metrics.Row, int]:
    """Learn from what was kept: `num_iterations` passes over `num_mini_batches` updates; mean figures, trained tokens.

    A mini batch is made of whole problems, and its denominators are its own: it is an update of its own. Problems with
    something to train on are dealt first, so that each mini batch gets its part of them.
    """
    config, learner, num = run.config, run.learners[stage], run.config.num_mini_batches
    method, store = learner.method, run.state.memory
    dealt = sorted(zip(gathered.groups, gathered.kept, strict=True), key=lambda pair: not pair[1])
    parts = [([group for group, _ in dealt[i::num]], [samples for _, samples in dealt[i::num]]) for i in range(num)]
    reads_last, dtype = "score" in method.streams, wide_type(learner.policy.model.dtype)
    updates = [
        pack(selected, method.sources, config.temperature, memory_values(method, store, groups), reads_last, dtype)
        for groups, selected in parts
    ]
    prepared_updates = prepare_updates(learner, updates, is_repeated=config.updates_per_step > 1)
    rows: list[metrics.Row] = []
    has_moved = False
    for number, each in enumerate(prepared_updates * config.num_iterations):
        # once the weights have moved a signal waits for the whole step: a checkpoint is never of half a step;
        # among several ranks it waits from the start, for the others would go on without this one's gradient
        watcher = run.watcher if not rows and run.process_group.is_alone else run.watcher.uninterruptible
        if each is None:
            rows.append(skip_update(learner))
            continue
        learned = optimizer_step(learner, each, progress, watcher, is_first=not has_moved)
        has_moved = True
        if not config.async_sampling or run.state.step == 0:  # ahead, they differ by an update
            run.mismatch.check(learned.figures, run.watcher)
        rows.append(learned.figures)
        if learned.observed is not None and number < len(prepared_updates):
            groups, selected = parts[number]
            observed = iter(learned.observed)
            update_memory(method, store, groups, [[next(observed) for _ in samples] for samples in selected])
    return metrics.mean(rows), config.num_iterations * sum(metrics.num_trained(update) for update in updates)


def advance_schedules(run: Run, acting: int) -> None:
    """Where a lane acts whenever problems wait for it nobody knows how often: schedules then count the run's steps."""
    if run.schedule.num_waiting_per_step is None:
        return
    mine = run.learners[acting].optimizer
    for other in {id(learner.optimizer): learner.optimizer for learner in run.learners}.values():
        for _ in range(run.config.updates_per_step if other is not mine else 0):
            other.skip_step()


def queue_failed_problems(run: Run, groups: list[Group]) -> None:
    """Note the problems that wait for the other lane, the newest last; one that waits already moves up."""
    # a step that crosses an epoch may have a problem twice
    names = list(dict.fromkeys(group.problem.id for group in groups if run.schedule.is_waiting(group)))
    if names:
        run.state.waiting = [name for name in run.state.waiting if name not in names] + names


def is_at_interval(every: float, run: Run) -> bool:
    """Whether the run stands at a mark: a multiple of `every` steps or, below 1, the first step behind such a share."""
    if every >= 1 or run.state.step == 0:
        return every > 0 and run.state.step % max(every, 1) == 0
    return every > 0 and int(run.progress / every + ROUNDING) > int(run.state.before / every + ROUNDING)


def is_save_due(run: Run) -> bool:
    """Whether a checkpoint is to be written after a step: at a mark of save_steps, or save_minutes after the last one.

    Clocks of ranks differ: the first one's decides for all.
    """
    config = run.config
    late = config.save_minutes > 0 and time.monotonic() - run.saved_at >= 60 * config.save_minutes
    return is_at_interval(config.save_steps, run) or (config.save_minutes > 0 and run.process_group.broadcast(late))


def evaluate_at_interval(run: Run) -> None:
    """Measure the policy on the held-out problems at every mark of eval_steps, the base and the end included.

    The result is a file of its own, so that a stop in the middle loses nothing but the measurement.
    """
    config, number = run.config, run.state.step
    name = f"eval/step-{number:06d}.json"
    is_due = run.is_finished or is_at_interval(config.eval_steps, run)
    if not run.eval_problems or not is_due or run.process_group.broadcast((run.folder.path / name).exists()):
        return
    made, num = run.collector, config.num_generations_eval
    made.sampler.sync_weights(number)
    with whole(*made.models):
        scores = measure_shared(
            run.process_group,
            run.eval_problems,
            made.sampler,
            made.renderer,
            made.params,
            num,
            config.seed,
            run.watcher,
        )
    report = Report(f"step {number}", scores, k=(1, num) if num > 1 else (1,))
    run.folder.write_json(name, report.summary())
    run.watcher.note(f"step {number}: {report.pass_at(1):.1%} of {len(scores)} held-out problems solved (pass@1)")
