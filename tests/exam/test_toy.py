"""Law 6: one step of any method raises the probability of the better answer, on a policy that is a table."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from exam.batches import learned, method_stages, stage, whole

from obverse.estimator.formula import loss
from obverse.estimator.method import Method
from obverse.types import GradeResult, Group, ModelInput, Problem, Sample, Source

GOOD, BAD = [5, 6], [7, 8]


def response(kind: str, ids: list[int], right: bool) -> Sample:
    source = Source.ROLLOUT if kind in ("rollout", "greedy") else Source[kind.upper()]
    grade = GradeResult.passed() if right else GradeResult.failed("other answer")
    behavior = [-2.3] * len(ids) if source is Source.ROLLOUT else [0.0] * len(ids)
    return Sample(kind, ModelInput((1, 2)), ids, [source] * len(ids), behavior, "", grade=grade)


def group_for(method: Method, solved: bool) -> Group:
    """A problem with a demonstration and a pair; of its own samples one of three is right, or none.

    A method that reads no grades cannot prefer correct answers: for those most rollouts are correct.
    """
    answers = (GOOD, BAD, BAD) if method.grades else (GOOD, GOOD, BAD)
    own = [response("rollout", ids, ids is GOOD) for ids in answers]
    written = [response("demonstration", GOOD, True), response("chosen", GOOD, True), response("rejected", BAD, False)]
    return Group(Problem("p", "x", "y", ("y",)), [*written, response("greedy", BAD, False), *own[not solved :]])


def log_likelihood(table: torch.Tensor, ids: list[int]) -> float:
    logp = table.detach().log_softmax(-1)
    return sum(float(logp[before, after]) for before, after in zip([2, *ids[:-1]], ids, strict=True))


def preference(table: torch.Tensor, scores: torch.Tensor, method: Method) -> float:
    """By how much the good answer is likelier, or for a reward model higher scored, than the bad one."""
    if not method.trains_policy:
        return float((scores[GOOD[-1]] - scores[BAD[-1]]).detach())
    return log_likelihood(table, GOOD) - log_likelihood(table, BAD)


def divergence(method: Method, logits: torch.Tensor, target: torch.Tensor, praise: torch.Tensor) -> torch.Tensor:
    """KL(Q || p) of each token, as a stand-in for any divergence; [T].

    Q is the policy before its step, in which the observed token's logit is raised: by the tilt, or by a teacher that
    knows which answer is right.
    """
    tilt = method.divergence.tilt if method.divergence and method.divergence.target == "anchor" else praise
    raised = logits.detach().scatter_add(1, target[:, None], (tilt + 0 * praise)[:, None]).log_softmax(-1)
    return (raised.exp() * (raised - logits)).sum(-1)


# Wrong answers rise too, less than a right one would: SDAR's gate is positive for every token.
RAISES_WRONG_ANSWERS = {"sdar"}
# Wrong answers fall whatever the group's other samples are: it has no baseline.
LOWERS_WRONG_ANSWERS = {"nsr"}


@pytest.mark.parametrize("name", method_stages())
@pytest.mark.parametrize("solved", [True, False])
def test_law_6_a_step_raises_the_better_answer(name: str, solved: bool) -> None:
    method = stage(name)
    update = learned([group_for(method, solved)], method)
    table, scores = (torch.zeros(*shape, dtype=torch.float64, requires_grad=True) for shape in ((10, 10), (10,)))
    if update is None:
        assert not solved or ":" in name, f"{name} keeps nothing of a problem that it solved"
        return
    micro = whole(update)
    logits = table[micro.input_ids[micro.row, micro.position]].log_softmax(-1)
    logp, entropy = logits.gather(-1, micro.target[:, None])[:, 0], -(logits.exp() * logits).sum(-1)
    before = preference(table, scores, method)
    # the anchor is the policy before its first step; a trained critic would prefer correct answers
    praise = update.samples.correct[micro.tokens.sample].double() * 2 - 1
    zeros = torch.zeros_like(praise)
    critic = {"advantage": praise if solved else zeros, "value": zeros, "returns": zeros}
    informed = logp.detach() + praise  # a teacher that knows which answer is right
    is_own = micro.tokens.source == int(Source.ROLLOUT)
    sampled = logp.detach().where(is_own, micro.tokens.behavior.double())  # the policy has not moved since
    tokens = replace(micro.tokens, behavior=sampled, anchor=logp.detach(), teacher=informed, **critic)
    streams = {"value": scores[micro.target], "divergence": divergence(method, logits, micro.target, praise)}
    loss(tokens, update.samples, logp, entropy, method.terms, **streams).backward()
    with torch.no_grad():
        for leaf in (table, scores):
            leaf -= 0.1 * (torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
    after = preference(table, scores, method)
    learns_from_failure = any(sample.kind in ("demonstration", "chosen") for sample in update.rows)
    learns_from_failure |= name in LOWERS_WRONG_ANSWERS
    learns_from_failure |= method.teacher is not None and not method.needs("group")
    if name in RAISES_WRONG_ANSWERS and not solved:
        assert before - 0.01 < after < before
    else:
        assert after > before if solved or learns_from_failure else after == before
