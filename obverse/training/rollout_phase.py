"""The rollout phase of a step: take problems, sample completions, grade them, and select what is trained on.

Among several ranks each samples and grades its share of the problems; then all ranks have all groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from obverse.data.epoch_order import take
from obverse.distributed.balance import balanced_shares
from obverse.distributed.fsdp import unsharded
from obverse.distributed.gather_samples import gather_groups
from obverse.estimator.method import Method
from obverse.inference.async_rollout import AsyncSampler
from obverse.runtime.signals import run_on_all_ranks
from obverse.training import metrics
from obverse.training.collector import Collector
from obverse.training.grader_errors import count_by_reason
from obverse.training.replay_phase import add_stored_samples, asks_fewer, replayed_problems, stored_position
from obverse.training.run import Run
from obverse.types import Group, Problem, Sample


@dataclass
class Rollouts:
    """The groups of a step, the samples of each that are trained on, and where the problems came from.

    `num_taken` is the number of problems taken from the training stream, `taken_from_queue` has the ids of those taken
    from the queue between two stages, `grader_errors` the grader's errors by reason, a row per round.
    """

    groups: list[Group]
    selected: list[list[Sample]]
    num_taken: int = 0
    taken_from_queue: frozenset[str] = frozenset()
    grader_errors: list[metrics.Row] = field(default_factory=list)

    @property
    def num_trainable(self) -> int:
        """The number of problems with something to train on."""
        return sum(map(bool, self.selected))

    def selected_ids(self) -> set[int]:
        """The object ids of the selected samples."""
        return {id(sample) for samples in self.selected for sample in samples}

    def limit(self, num_problems: int) -> None:
        """Train on the first `num_problems` of the problems with something to train on."""
        trainable = [index for index, samples in enumerate(self.selected) if samples]
        for index in trainable[num_problems:]:
            self.selected[index] = []


def collect_rollouts(run: Run, stage: int, progress: float, timer: metrics.PhaseTimer) -> Rollouts:
    """Sample, grade and select; in up to `max_rounds` rounds, until enough problems have something to train on."""
    config, method = run.config, run.schedule.methods[stage]
    waiting = run.newest_waiting() if stage > 0 else []
    with timer("sample"):
        run.collector.sampler.sync_weights(run.state.step)
    rollouts = Rollouts([], [], taken_from_queue=frozenset(problem.id for problem in waiting))
    for _ in range(1 if waiting else method.max_rounds):
        cursor = run.state.cursor + rollouts.num_taken
        problems = waiting or take(run.problems, config.seed, cursor, config.prompts_per_step)
        replayed = replayed_problems(run, method, problems)
        num_replayed = len(replayed)
        problems = [*problems[: len(problems) - num_replayed], *replayed]
        groups = sample_and_grade(run, asks_fewer(method, replayed), problems, cursor, progress, timer, num_replayed)
        with timer("grade"):
            rollouts.grader_errors.append(count_by_reason(groups))
            groups = run.graders.drop_ungraded(groups, grades_rollouts=method.grades)
        if replayed:
            with timer("replay"):
                add_stored_samples(run, stage, groups, replayed)
        rollouts.groups += groups
        rollouts.selected += [method.select(group) for group in groups]
        rollouts.num_taken += 0 if waiting else len(problems) - num_replayed
        if rollouts.num_trainable >= config.prompts_per_step:
            break
    if method.max_rounds > 1:  # the last round may have brought more problems than a step trains on
        rollouts.limit(config.prompts_per_step)
    sample_next_step(run, method, rollouts.num_taken)
    return rollouts


def sample_and_grade(
    run: Run,
    method: Method,
    problems: Sequence[Problem],
    cursor: int,
    progress: float,
    timer: metrics.PhaseTimer,
    num_replayed: int = 0,
) -> list[Group]:
    """The groups of `problems`, sampled and graded: each rank makes those assigned to it, then all have all.

    The last `num_replayed` problems are not of the training stream: their seeds follow from the step.
    """
    collector, process_group = run.collector, run.process_group
    assignments = assign_problems(run, method, problems, progress)
    indices = assignments[process_group.rank]
    num_fresh = len(problems) - num_replayed
    offsets = [i if i < num_fresh else stored_position(run, i - num_fresh) - cursor for i in indices]

    def work() -> list[Group]:
        with timer("sample"):
            groups = collector.collect([problems[index] for index in indices], method, cursor, progress, offsets)
        with timer("grade"):
            collector.grade(groups, grades_rollouts=method.grades)
        add_follow_ups(collector, groups, method, cursor, progress, offsets, timer)
        return groups

    with unsharded(*collector.models):  # ranks sample different numbers of tokens: no FSDP collective may run inside
        groups = run_on_all_ranks(process_group, work)
    if process_group.is_alone:
        return groups
    with timer("gather"):  # includes the wait for slower ranks
        return gather_groups(process_group, problems, assignments, groups)


def add_follow_ups(
    collector: Collector,
    groups: Sequence[Group],
    method: Method,
    cursor: int,
    progress: float,
    offsets: Sequence[int],
    timer: metrics.PhaseTimer,
) -> None:
    """Add the samples that the method requests once verdicts are known, graded, until it requests none.

    `offsets` are the positions of the groups' problems behind `cursor`. A problem without a request in a round gets
    none in later rounds.
    """
    incomplete = list(zip(groups, offsets, strict=True))
    for round_number in range(1, method.num_follow_ups + 1):
        problem_groups, positions = [group for group, _ in incomplete], [offset for _, offset in incomplete]
        with timer("sample"):
            added = collector.follow_up(problem_groups, method, cursor, progress, positions, round_number)
        with timer("grade"):
            collector.grade(added, grades_rollouts=method.grades)
        for group, further in zip(problem_groups, added, strict=True):
            group.samples += further.samples
        incomplete = [pair for pair, further in zip(incomplete, added, strict=True) if further.samples]
        if not incomplete:
            break


def assign_problems(run: Run, method: Method, problems: Sequence[Problem], progress: float) -> list[list[int]]:
    """The indices of the problems that each rank samples, balanced by their cost."""
    if run.process_group.is_alone:
        return [[*range(len(problems))]]
    return balanced_shares(run.collector.costs(problems, method, progress), run.process_group.size)


def sample_next_step(run: Run, method: Method, num_taken: int) -> None:
    """With `async_sampling`, start to sample for the next step from the policy as it is before this step trains it.

    This also happens in the last step, because the run may be continued.
    """
    sampler, state = run.collector.sampler, run.state
    if isinstance(sampler, AsyncSampler):
        cursor, progress = state.cursor + num_taken, run.progress_after_step
        problems = take(run.problems, run.config.seed, cursor, run.config.prompts_per_step)
        indices = assign_problems(run, method, problems, progress)[run.process_group.rank]
        of_rank = [problems[index] for index in indices]
        requests = run.collector.sampling_requests(of_rank, method, cursor, progress, indices)
        with unsharded(*run.collector.models):
            sampler.prefetch(requests, state.step + 1)
