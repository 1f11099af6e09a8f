"""The teacher phase of a step: the prompts that the teacher reads, and its log-prob of every token of the responses.

It comes after grading, because a context may depend on verdicts, and before the first update: each selected sample is
scored once, whatever the number of updates. The token ids of responses are scored as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from obverse.data.teacher_prompts import TeacherPrompts
from obverse.distributed.balance import balanced_shares
from obverse.distributed.fsdp import is_sharded
from obverse.distributed.process_group import ProcessGroup
from obverse.estimator.method import Method
from obverse.inference.policy_scorer import PolicyScorer
from obverse.inference.scoring import ScoringRequest, TokenScorer
from obverse.runtime.callbacks import Watcher
from obverse.runtime.signals import run_on_all_ranks
from obverse.training.learners import Learner
from obverse.training.metrics import PhaseTimer, Row
from obverse.training.rollout_phase import Rollouts
from obverse.training.run import Run
from obverse.types import Group, ModelInput, Sample

# Log-prob, in nats, below which a score counts as a token that the teacher cannot produce: e^-30 is 1e-13. A weight
# T - log mu is then at least -30, where -inf (a token outside a server's list, a masked logit) would end the run.
FLOOR = -30.0


@dataclass(frozen=True)
class TeacherScores:
    """The counts of a step's teacher.

    `num_tokens` are the response tokens that it has read: those of the phase, of which `num_clamped` were below FLOOR,
    and those of a divergence in the updates.
    """

    num_tokens: int = 0
    num_scored: int = 0
    num_clamped: int = 0
    flops: float = 0.0  # 2 per parameter of the teacher and scored token; prompts are left out

    def row(self) -> Row:
        """`tokens/teacher` and `teacher/clamped`, the share of the scored tokens that were clamped."""
        share = {"teacher/clamped": self.num_clamped / self.num_scored} if self.num_scored else {}
        return {"tokens/teacher": self.num_tokens, **share}


def score_rollouts(run: Run, stage: int, rollouts: Rollouts, timer: PhaseTimer) -> TeacherScores:
    """Set the teacher's prompt and, if a part reads the column `teacher`, the scores of the selected samples.

    A sample that no part reads the teacher of gets a column of zeros. An interrupted phase leaves all unscored.
    """
    method = run.schedule.methods[stage]
    if method.teacher is None or run.teacher_prompts is None:
        return TeacherScores()
    with timer("teacher"):
        pairs = samples_with_groups(rollouts, method)
        for (_, sample), prompt in zip(pairs, teacher_prompts(method, pairs, run.teacher_prompts), strict=True):
            sample.teacher_prompt = prompt
        return score_samples(run, stage, pairs, rollouts) if method.needs("teacher") else TeacherScores()


def score_samples(run: Run, stage: int, pairs: Sequence[tuple[Group, Sample]], rollouts: Rollouts) -> TeacherScores:
    """Score the samples of `pairs` and write the column of all selected samples."""
    requests = [
        ScoringRequest(sample.teacher_prompt, sample.ids, sample.sources)
        for _, sample in pairs
        if sample.teacher_prompt is not None
    ]
    scorers = scorers_of(run.learners[stage], run.config.temperature)
    names = ["" if "" in scorers else run.teacher_name(group.problem) for group, _ in pairs]
    is_collective = any(map(runs_together, scorers.values()))
    watcher = run.watcher.uninterruptible if is_collective else run.watcher
    scores = score_on_all_ranks(run.process_group, scorers, names, requests, watcher)
    for (_, sample), values in zip(pairs, scores, strict=True):
        sample.teacher = [max(value, FLOOR) for value in values]
    for sample in (sample for selected in rollouts.selected for sample in selected if sample.teacher is None):
        sample.teacher = [0.0] * len(sample.ids)
    parameters = {name: scorer.num_parameters for name, scorer in scorers.items()}
    num_scored = sum(map(len, scores))
    return TeacherScores(
        num_tokens=num_scored,
        num_scored=num_scored,
        num_clamped=sum(value < FLOOR for values in scores for value in values),
        flops=sum(2.0 * parameters[name] * len(values) for name, values in zip(names, scores, strict=True)),
    )


def with_divergence(run: Run, stage: int, scores: TeacherScores, num_trained: int) -> TeacherScores:
    """The counts with the tokens of a divergence, which the teacher reads in every update."""
    learner = run.learners[stage]
    divergence, teacher = learner.method.divergence, learner.teacher
    if divergence is None or divergence.target != "teacher" or teacher is None:
        return scores
    flops = scores.flops + 2.0 * teacher.num_parameters * num_trained
    return replace(scores, num_tokens=scores.num_tokens + num_trained, flops=flops)


def samples_with_groups(rollouts: Rollouts, method: Method) -> list[tuple[Group, Sample]]:
    """The selected samples at which the method reads the teacher, each with its group."""
    return [
        (group, sample)
        for group, selected in zip(rollouts.groups, rollouts.selected, strict=True)
        for sample in selected
        if method.reads_teacher(sample)
    ]


def teacher_prompts(method: Method, pairs: Sequence[tuple[Group, Sample]], prompts: TeacherPrompts) -> list[ModelInput]:
    """The prompt that the teacher reads for each sample; of the plain context the prompt of the sample itself."""
    rendered: dict[tuple[str, str, str], ModelInput] = {}
    result: list[ModelInput] = []
    for group, sample in pairs:
        context = method.teacher_context(group, sample)
        assert context is not None, "Method.select keeps no sample without a context of its teacher"
        if context.kind == "prompt":
            result.append(sample.prompt)
            continue
        key = (group.problem.id, *context)
        if key not in rendered:
            rendered[key] = prompts.prompt(group.problem, context)
        result.append(rendered[key])
    return result


def scorers_of(learner: Learner, temperature: float) -> Mapping[str, TokenScorer]:
    """The scorer of each teacher by its name; "" for a run with one teacher."""
    if learner.scorers:
        return learner.scorers
    teachers = learner.teachers or ({} if learner.teacher is None else {"": learner.teacher})
    return {
        name: PolicyScorer(policy, temperature, learner.micro_batch_tokens, learner.process_group)
        for name, policy in teachers.items()
    }


def runs_together(scorer: TokenScorer) -> bool:
    """Whether all ranks run the forward passes of a scorer together, so that none of them may stop in between."""
    return isinstance(scorer, PolicyScorer) and is_sharded(scorer.policy.model)


def score_on_all_ranks(
    process_group: ProcessGroup,
    scorers: Mapping[str, TokenScorer],
    names: Sequence[str],
    requests: Sequence[ScoringRequest],
    watcher: Watcher,
) -> list[list[float]]:
    """The log-probs of each request, in order: each rank scores its share, then all ranks have all.

    `names` has the teacher of each request. Requests with equal prompts are scored by one rank. Raises
    FloatingPointError, on all ranks, for a log-prob that is NaN or above 0 by more than rounding.
    """
    shares = shares_of_requests(process_group.size, names, requests)
    indices = shares[process_group.rank]

    def work() -> list[list[float]]:
        by_index: dict[int, list[float]] = {}
        for name in sorted(scorers):
            members = [index for index in indices if names[index] == name]

            def report(num: int, before: int = len(by_index)) -> None:
                watcher.phase("teacher", before + num, len(indices))

            scores = scorers[name].score([requests[index] for index in members], report)
            by_index |= dict(zip(members, scores, strict=True))
        check_scores(by_index)
        return [by_index[index] for index in indices]

    scores = run_on_all_ranks(process_group, work)
    if process_group.is_alone:
        return scores
    values = [value for row in scores for value in row]
    of_ranks = process_group.gather_tensors(torch.tensor(values, dtype=torch.float64))
    result: list[list[float]] = [[] for _ in requests]
    for share, tensor in zip(shares, of_ranks, strict=True):
        parts = tensor.split([len(requests[index].ids) for index in share]) if share else ()
        for index, part in zip(share, parts, strict=True):
            result[index] = part.tolist()
    return result


def shares_of_requests(size: int, names: Sequence[str], requests: Sequence[ScoringRequest]) -> list[list[int]]:
    """The indices of the requests that each of `size` ranks scores, balanced by their tokens."""
    if size == 1:
        return [[*range(len(requests))]]
    members: dict[tuple[str, ModelInput], list[int]] = {}
    for index, (name, request) in enumerate(zip(names, requests, strict=True)):
        members.setdefault((name, request.prompt), []).append(index)
    blocks = [*members.values()]
    costs = [len(requests[block[0]].prompt) + sum(len(requests[index].ids) for index in block) for block in blocks]
    return [sorted(index for block in share for index in blocks[block]) for share in balanced_shares(costs, size)]


def check_scores(scores: Mapping[int, Sequence[float]]) -> None:
    """Raise FloatingPointError for a score that is no log-prob."""
    for values in scores.values():
        for position, value in enumerate(values):
            if math.isnan(value) or value > 1e-3:
                raise FloatingPointError(
                    f"the teacher's log-prob of token {position} of a response is {value}, which is no log-prob: check "
                    "the teacher's weights and its --dtype"
                )
