"""What a step learns from: problems are taken, sampled and judged by whichever rank they are dealt to, and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from obverse.data.epoch_order import take
from obverse.distributed.balance import deal
from obverse.distributed.fsdp import whole
from obverse.distributed.gather_samples import gather_groups
from obverse.estimator.method import Method
from obverse.inference.async_rollout import AsyncSampler
from obverse.runtime.signals import run_on_all_ranks
from obverse.training import metrics
from obverse.training.grader_errors import count_by_reason
from obverse.training.state import Run
from obverse.types import Group, Problem, Sample


@dataclass
class Rollouts:
    """What a step collected: every group, what of each group trains, how many problems of the stream that took.

    `waited` has the names of the problems that were put aside before and are taken now, `reasons` what graders
    failed on, by round.
    """

    groups: list[Group]
    kept: list[list[Sample]]
    num_taken: int = 0
    waited: frozenset[str] = frozenset()
    reasons: list[metrics.Row] = field(default_factory=list)


def collect_rollouts(run: Run, stage: int, progress: float, clock: metrics.PhaseTimer) -> Rollouts:
    """Sample and judge; again, for a method that wants so, until enough problems have something to train on."""
    config, method = run.config, run.schedule.methods[stage]
    waiting = run.take_waiting() if stage > 0 else []
    with clock("sample"):
        run.collector.sampler.sync_weights(run.state.step)
    found = Rollouts([], [], waited=frozenset(problem.id for problem in waiting))
    for _ in range(1 if waiting else method.max_rounds):
        cursor = run.state.cursor + found.num_taken
        problems = waiting or take(run.problems, config.seed, cursor, config.prompts_per_step)
        groups = collect_groups(run, method, problems, cursor, progress, clock)
        with clock("grade"):
            found.reasons.append(count_by_reason(groups))
            groups = run.graders.drop_ungraded(groups, own=method.grades)
        found.groups += groups
        found.kept += [method.select(group) for group in groups]
        found.num_taken += 0 if waiting else len(problems)
        if sum(map(bool, found.kept)) >= config.prompts_per_step:
            break
    if method.max_rounds > 1:  # the last round may have brought more than were asked for
        full = [index for index, samples in enumerate(found.kept) if samples]
        for index in full[config.prompts_per_step :]:
            found.kept[index] = []
    sample_next_step(run, method, found.num_taken)
    return found


def collect_groups(
    run: Run, method: Method, problems: Sequence[Problem], cursor: int, progress: float, clock: metrics.PhaseTimer
) -> list[Group]:
    """Groups of the problems, sampled and judged: each rank makes those that are dealt to it, then all have all."""
    collector, process_group = run.collector, run.process_group
    shares = assign_problems(run, method, problems, progress)
    places = shares[process_group.rank]

    def work() -> list[Group]:
        with clock("sample"):
            groups = collector.collect([problems[place] for place in places], method, cursor, progress, places)
        with clock("grade"):
            collector.judge(groups, own=method.grades)
        return groups

    with whole(*collector.models):  # what ranks sample and score differs: none waits for another in there
        groups = run_on_all_ranks(process_group, work)
    if process_group.is_alone:
        return groups
    with clock("gather"):  # what the slower ranks are waited for is in it
        return gather_groups(process_group, problems, shares, groups)


def assign_problems(run: Run, method: Method, problems: Sequence[Problem], progress: float) -> list[list[int]]:
    """Which of the problems each rank samples."""
    if run.process_group.is_alone:
        return [[*range(len(problems))]]
    return deal(run.collector.costs(problems, method, progress), run.process_group.size)


def sample_next_step(run: Run, method: Method, num_taken: int) -> None:
    """Begin to sample for the next step from the policy as it stands before this one trains, where a run does so.

    Also in the last step: the run may be made longer.
    """
    sampler, state = run.collector.sampler, run.state
    if isinstance(sampler, AsyncSampler):
        cursor, progress = state.cursor + num_taken, run.progress_after_step
        problems = take(run.problems, run.config.seed, cursor, run.config.prompts_per_step)
        places = assign_problems(run, method, problems, progress)[run.process_group.rank]
        mine = [problems[place] for place in places]
        wanted = run.collector.sampling_requests(mine, method, cursor, progress, places)
        with whole(*run.collector.models):
            sampler.prefetch(wanted, state.step + 1)
