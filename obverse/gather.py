"""What a step learns from: problems are taken, sampled and judged by whichever rank they are dealt to, and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from obverse import metrics
from obverse.dist.deal import deal
from obverse.dist.groups import gather_groups
from obverse.dist.shards import whole
from obverse.graders import by_reason
from obverse.interrupt import together
from obverse.method import Method
from obverse.problems import take
from obverse.records import Group, Problem, Sample
from obverse.run import Run
from obverse.sampling.ahead import Ahead


@dataclass
class Gathered:
    """What a step collected: every group, what of each group trains, how many problems of the stream that took.

    `waited` has the names of the problems that were put aside before and are taken now, `reasons` what graders
    failed on, by round.
    """

    groups: list[Group]
    kept: list[list[Sample]]
    num_taken: int = 0
    waited: frozenset[str] = frozenset()
    reasons: list[metrics.Row] = field(default_factory=list)


def gather(run: Run, lane: int, progress: float, clock: metrics.Clock) -> Gathered:
    """Sample and judge; again, for a method that wants so, until enough problems have something to train on."""
    config, method = run.config, run.course.methods[lane]
    waiting = run.next_waiting() if lane > 0 else []
    with clock("sample"):
        run.collector.sampler.follow(run.state.step)
    found = Gathered([], [], waited=frozenset(problem.id for problem in waiting))
    for _ in range(1 if waiting else method.max_rounds):
        cursor = run.state.cursor + found.num_taken
        problems = waiting or take(run.problems, config.seed, cursor, config.prompts_per_step)
        groups = collect(run, method, problems, cursor, progress, clock)
        with clock("grade"):
            found.reasons.append(by_reason(groups))
            groups = run.graders.sift(groups, own=method.grades)
        found.groups += groups
        found.kept += [method.select(group) for group in groups]
        found.num_taken += 0 if waiting else len(problems)
        if sum(map(bool, found.kept)) >= config.prompts_per_step:
            break
    if method.max_rounds > 1:  # the last round may have brought more than were asked for
        full = [index for index, samples in enumerate(found.kept) if samples]
        for index in full[config.prompts_per_step :]:
            found.kept[index] = []
    draw_ahead(run, method, found.num_taken)
    return found


def collect(
    run: Run, method: Method, problems: Sequence[Problem], cursor: int, progress: float, clock: metrics.Clock
) -> list[Group]:
    """Groups of the problems, sampled and judged: each rank makes those that are dealt to it, then all have all."""
    collector, team = run.collector, run.team
    shares = shared(run, method, problems, progress)
    places = shares[team.rank]

    def work() -> list[Group]:
        with clock("sample"):
            groups = collector.collect([problems[place] for place in places], method, cursor, progress, places)
        with clock("grade"):
            collector.judge(groups, own=method.grades)
        return groups

    with whole(*collector.models):  # what ranks sample and score differs: none waits for another in there
        groups = together(team, work)
    if team.is_alone:
        return groups
    with clock("gather"):  # what the slower ranks are waited for is in it
        return gather_groups(team, problems, shares, groups)


def shared(run: Run, method: Method, problems: Sequence[Problem], progress: float) -> list[list[int]]:
    """Which of the problems each rank samples."""
    if run.team.is_alone:
        return [[*range(len(problems))]]
    return deal(run.collector.costs(problems, method, progress), run.team.size)


def draw_ahead(run: Run, method: Method, num_taken: int) -> None:
    """Begin to sample for the next step from the policy as it stands before this one trains, where a run does so.

    Also in the last step: the run may be made longer.
    """
    ahead, state = run.collector.sampler, run.state
    if isinstance(ahead, Ahead):
        cursor, progress = state.cursor + num_taken, run.foreseen
        problems = take(run.problems, run.config.seed, cursor, run.config.prompts_per_step)
        places = shared(run, method, problems, progress)[run.team.rank]
        mine = [problems[place] for place in places]
        wanted = run.collector.wanted(mine, method, cursor, progress, places)
        with whole(*run.collector.models):
            ahead.draw(wanted, state.step + 1)
