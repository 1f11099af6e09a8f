"""The replay of a step: which problems come from the store, and which stored sample joins each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from obverse.distributed.balance import balanced_shares
from obverse.estimator.method import Method
from obverse.estimator.parts.interfaces import RequestFunction
from obverse.estimator.replay import Store, stored_samples
from obverse.inference.policy_scorer import PolicyScorer
from obverse.inference.scoring import ScoringRequest
from obverse.training.run import Run
from obverse.types import GenerationRequest, Group, Problem, Sample


@dataclass(frozen=True)
class OneFewer:
    """The requests of a method, with one rollout fewer for problems that have a stored sample in their group."""

    method: Method
    replayed: frozenset[str]

    def __call__(self, problem: Problem, progress: float) -> list[GenerationRequest]:
        requests = self.method.ask(problem, progress)
        replay = self.method.replay
        return replay.requests(requests) if replay is not None and problem.id in self.replayed else requests


def replayed_problems(run: Run, method: Method, fresh: Sequence[Problem]) -> list[Problem]:
    """The problems that the step takes from the store: none of `fresh`, and at most the method's share of a step."""
    if method.replay is None:
        return []
    excluded = {problem.id for problem in fresh}
    chosen = method.replay.choose(run.state.replay, run.config.prompts_per_step, run.state.step, excluded)
    by_id = {problem.id: problem for problem in run.problems}
    return [by_id[name] for name in chosen]


def stored_position(run: Run, number: int) -> int:
    """The position that stands for the stream's in the seeds of the step's problem `number` from the store."""
    return -1 - number - run.state.step * run.config.prompts_per_step


def asks_fewer(method: Method, replayed: Sequence[Problem]) -> Method:
    """The method as it samples for a step with these problems from the store."""
    ask: RequestFunction = OneFewer(method, frozenset(problem.id for problem in replayed))
    return replace(method, ask=ask) if replayed else method


def add_stored_samples(run: Run, stage: int, groups: Sequence[Group], replayed: Sequence[Problem]) -> None:
    """Put one stored sample of each replayed problem in front of its group: that of the lowest current mean entropy.

    The entropies are those of the policy before this step, at the run's temperature, over the response's tokens.
    """
    names = {problem.id for problem in replayed}
    of_store = [group for group in groups if group.problem.id in names]
    renderer, store = run.collector.renderer, run.state.replay
    candidates = [stored_samples(store, group.problem, renderer.prompt(group.problem)) for group in of_store]
    entropies = iter(mean_entropies(run, stage, [sample for samples in candidates for sample in samples]))
    for group, samples in zip(of_store, candidates, strict=True):
        values = [next(entropies) for _ in samples]
        group.samples.insert(0, samples[values.index(min(values))])


def updated_replay(run: Run, stage: int, rollouts: Sequence[Group]) -> Store:
    """The store after the step that the run has just trained on; unchanged for a method without a replay."""
    replay = run.schedule.methods[stage].replay
    return run.state.replay if replay is None else replay.updated(run.state.replay, rollouts, run.state.step)


def mean_entropies(run: Run, stage: int, samples: Sequence[Sample]) -> list[float]:
    """The mean entropy of the policy over each sample's tokens; each rank computes a part, and all have all."""
    group, policy = run.process_group, run.learners[stage].policy
    shares = balanced_shares([sample.num_tokens for sample in samples], group.size)
    members = shares[group.rank]
    scorer = PolicyScorer(policy, run.config.temperature, run.learners[stage].micro_batch_tokens, group)
    requests = [ScoringRequest(samples[i].prompt, samples[i].ids, samples[i].sources) for i in members]
    local = [fmean(values) if values else 0.0 for values in scorer.entropies(requests)]
    means = [0.0] * len(samples)
    for share, values in zip(shares, group.gather(local), strict=True):
        for index, value in zip(share, values, strict=True):
            means[index] = value
    return means
