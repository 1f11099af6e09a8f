"""Law 6: one step of any method raises the probability of the better answer, on a policy that is a table."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from exam.batches import whole

from obverse import methods
from obverse.batch import pack
from obverse.estimator import loss
from obverse.records import Group, Problem, Sample, Source, Verdict

GOOD, BAD = [5, 6], [7, 8]


def response(kind: str, ids: list[int], right: bool) -> Sample:
    source = Source.DEMONSTRATION if kind == "demonstration" else Source.ROLLOUT
    verdict = Verdict.right() if right else Verdict.wrong("other answer")
    behavior = [-2.3] * len(ids) if kind == "rollout" else [0.0] * len(ids)
    return Sample(kind, [1, 2], ids, [source] * len(ids), behavior, "", verdict=verdict)


def log_likelihood(table: torch.Tensor, ids: list[int]) -> float:
    logp = table.detach().log_softmax(-1)
    return sum(float(logp[before, after]) for before, after in zip([2, *ids[:-1]], ids, strict=True))


@pytest.mark.parametrize("name", methods.names())
@pytest.mark.parametrize("solved", [True, False])
def test_law_6_a_step_raises_the_better_answer(name: str, solved: bool) -> None:
    method = methods.build(name)
    own = [response("rollout", GOOD, True), response("rollout", BAD, False), response("rollout", BAD, False)]
    problem = Problem("p", "x", "y", ("y",))
    group = Group(problem, [response("demonstration", GOOD, True), *(own if solved else own[1:])])
    update = pack([method.select(group)], method.sources)
    table = torch.zeros(10, 10, dtype=torch.float64, requires_grad=True)
    if update is None:
        assert not solved, f"{name} keeps nothing of a problem that it solved"
        return
    micro = whole(update)
    state = micro.input_ids[micro.row, micro.position]
    logits = table[state].log_softmax(-1)
    logp, entropy = logits.gather(-1, micro.target[:, None])[:, 0], -(logits.exp() * logits).sum(-1)
    before = log_likelihood(table, GOOD) - log_likelihood(table, BAD)
    # the anchor is the policy before its first step
    tokens = replace(micro.tokens, anchor=logp.detach())
    loss(tokens, update.samples, logp, entropy, method.terms).backward()
    with torch.no_grad():
        table -= 0.1 * table.grad
    after = log_likelihood(table, GOOD) - log_likelihood(table, BAD)
    learns_from_failure = any(sample.kind == "demonstration" for sample in update.rows)
    assert after > before if solved or learns_from_failure else after == before
