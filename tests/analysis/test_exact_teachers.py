"""Distillation on the enumerable policy: the gradient of the reverse KL at each state exactly, and its variance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import pytest
import torch
from analysis.test_exact import EXACT, UNIFORM, score, two_stages
from torch import Tensor

from obverse.analysis.enumerable_gradients import Expectation, expectation
from obverse.analysis.enumerable_policy import DEMONSTRATION, Table, completions, contexts
from obverse.analysis.enumerable_teachers import (
    COPY,
    Models,
    better_than,
    distillation_gradient,
    has_read,
    reverse_kl_gradient,
)
from obverse.estimator import Divergence, Method, Teacher, Term
from obverse.estimator.parts import PerSample, Request
from obverse.estimator.parts.interfaces import Part
from obverse.estimator.tables import PartInputs
from obverse.estimator.teacher import TeacherContext
from obverse.types import Source
from recipes import variance_table

CONTEXT = TeacherContext("prompt", "")


@dataclass(frozen=True)
class TeacherMinusBehavior(Part):
    """log pi_T - log pi_old of the sampled token."""

    needs: ClassVar[frozenset[str]] = frozenset({"teacher", "behavior"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        return inputs.tokens.teacher - inputs.tokens.behavior


@cache
def teacher() -> Table:
    return better_than(two_stages()[1])


BETTER = Teacher()


def sampled(num: int, who: Teacher = BETTER) -> Method:
    """Distillation on the sampled token, a mean over samples; discount 0."""
    term = Term(Source.ROLLOUT, TeacherMinusBehavior(), normalizer=PerSample())
    return Method(ask=Request(rollouts=num), terms=(term,), teacher=who)


def whole(num: int, beta: float = 1.0) -> Method:
    """The same with the divergence over the vocabulary."""
    term = Term(Source.ROLLOUT, normalizer=PerSample(), on="divergence")
    return Method(ask=Request(rollouts=num), terms=(term,), teacher=BETTER, divergence=Divergence(beta=beta))


def of(method: Method, policy: Table) -> Expectation:
    return expectation(method, Models(policy, two_stages()[0], teacher()))


def by_hand(policy: Table, target: Table) -> tuple[Tensor, float]:
    """E[G] and E|G|^2 of one sampled completion with (log pi_T - log pi) grad log pi at each token."""
    mean, square = torch.zeros(policy.logits.numel(), dtype=torch.float64), 0.0
    for ids in completions():
        rows, tokens = contexts(ids), list(ids)
        weights = target.logp[rows, tokens] - policy.logp[rows, tokens]
        gradient = sum(weight * row for weight, row in zip(weights, score(policy, ids), strict=True))
        chance = float(policy.likelihood(ids).exp())
        mean, square = mean + chance * gradient, square + chance * float(gradient @ gradient)
    return mean, square


@pytest.mark.parametrize("stage", [0, 1])
def test_the_sampled_token_is_unbiased_for_the_reverse_kl_at_every_state(stage: int) -> None:
    policy = two_stages()[stage]
    estimate, (mean, square) = of(sampled(1), policy), by_hand(policy, teacher())
    assert torch.allclose(estimate.mean, mean, atol=1e-12) and math.isclose(estimate.square, square, rel_tol=1e-9)
    p, ratio = policy.logp.exp(), policy.logp - teacher().logp
    kl = (p * ratio).sum(-1, keepdim=True)
    at_states = -policy.visits[:, None] * p * (ratio - kl)  # by the logits of each state, written down by hand
    assert torch.allclose(estimate.mean.reshape(p.shape), at_states, atol=1e-12)
    figures = estimate.beside(reverse_kl_gradient(policy, teacher()))
    assert figures.bias < EXACT and figures.variance > 0.1
    assert estimate.beside(policy.true_gradient()).bias > 0.05  # success is another objective


def test_the_whole_vocabulary_has_the_same_expectation_and_less_variance() -> None:
    for policy in two_stages():
        true = reverse_kl_gradient(policy, teacher())
        token, vocabulary = (of(method, policy).beside(true) for method in (sampled(1), whole(1)))
        assert vocabulary.bias < EXACT and token.bias < EXACT
        assert 0 < vocabulary.variance < token.variance / 2
    halves = of(whole(2), policy).beside(true)
    assert halves.variance == pytest.approx(vocabulary.variance / 2, rel=1e-6)


def test_a_tiny_case_by_hand() -> None:
    """One token that ends: p = (.5, .3, .2), q = (.2, .3, .5), the golden numbers of the reverse KL."""
    p, q = (torch.tensor(row, dtype=torch.float64) for row in ((0.5, 0.3, 0.2), (0.2, 0.3, 0.5)))
    logits = UNIFORM.logits.clone()
    logits[0] = p.log()
    target = UNIFORM.logits.clone()
    target[0] = q.log()
    gradient = reverse_kl_gradient(Table(logits), Table(target)).reshape(logits.shape)
    assert gradient[0].tolist() == pytest.approx([-0.3207017562, 0.0824661659, 0.2382355903], abs=1e-9)
    assert gradient[1:].abs().max() < EXACT  # elsewhere policy and teacher agree
    sampled_gradients = torch.stack([(q[k] / p[k]).log() * (torch.eye(3).double()[k] - p) for k in range(3)])
    mean = (p[:, None] * sampled_gradients).sum(0)
    scatter = float((p[:, None] * (sampled_gradients - mean) ** 2).sum())
    estimate = expectation(sampled(1), Models(Table(logits), Table(logits), Table(target)))
    assert torch.allclose(estimate.mean[:3], mean) and estimate.mean[:3].tolist() == pytest.approx(gradient[0].tolist())
    assert estimate.square - float(estimate.mean @ estimate.mean) == pytest.approx(scatter, rel=1e-9)
    # the first state is visited once by every completion: without the others' part there is no scatter
    vocabulary = expectation(whole(1), Models(Table(logits), Table(logits), Table(target)))
    assert vocabulary.square == pytest.approx(float(gradient.flatten() @ gradient.flatten()), rel=1e-6)


def test_teachers_of_the_table() -> None:
    initial, policy = two_stages()
    models = Models(policy, initial, teacher())
    assert (
        models.table_of(Teacher("model"), CONTEXT) is teacher()
        and models.table_of(Teacher("initial"), CONTEXT) is initial
    )
    assert float(teacher().success()) == pytest.approx(0.75, abs=1e-6)
    read = has_read(policy, DEMONSTRATION.ids)
    odds = [table.logp.exp()[0, 1] / (1 - table.logp.exp()[0, 1]) for table in (policy, read)]
    assert float((odds[1] / odds[0]).log()) == pytest.approx(COPY)
    assert float(read.likelihood(DEMONSTRATION.ids)) > float(policy.likelihood(DEMONSTRATION.ids))
    with_demonstration = sampled(1, Teacher("policy", "demonstration"))
    estimate = expectation(with_demonstration, models)
    true = distillation_gradient(with_demonstration, models)
    assert true is not None and estimate.beside(true).bias < EXACT
    assert distillation_gradient(sampled(1, Teacher("policy", "sibling")), models) is None
    same = expectation(sampled(2, Teacher("policy", "sibling")), models)  # a right sibling is read
    assert same.square > 0 and float(expectation(sampled(1, Teacher("average")), models).square) == 0


def page_rows() -> list[str]:
    page = variance_table.PAGE.read_text(encoding="utf-8")
    return page[page.index("<!-- distillation -->") :].partition("<!-- end -->")[0].splitlines()[3:]


def test_the_page_has_the_methods_of_the_recipe() -> None:
    labels = {row.split("|")[1].strip().removesuffix(", reverse KL") for row in page_rows()} - {""}
    assert labels == set(variance_table.DISTILLATION)


@pytest.mark.slow
def test_the_page_is_of_this_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variance_table, "DISTILLATION", {"sdpo": {}})
    assert variance_table.distillation().splitlines()[2:] == page_rows()[-4:], "run recipes/variance_table.py"
