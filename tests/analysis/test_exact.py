"""Bias and variance: literal numbers of an enumerable policy, and naive loops over ordered groups."""

from __future__ import annotations

import math
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch
from exam.batches import method_stages
from mechanisms import representatives_first

from obverse import methods
from obverse.analysis import enumerable_gradients as exact
from obverse.analysis.enumerable_gradients import Moments, distinct_requests, moments
from obverse.analysis.enumerable_policy import (
    NUM_CONTEXTS,
    NUM_TOKENS,
    Table,
    completions,
    contexts,
    greedy,
    is_correct,
    policies_at,
)
from obverse.analysis.variance import reason_against, stages_of, variance
from obverse.config.analyze import VarianceConfig
from obverse.errors import ConfigError
from obverse.estimator.formula import Term
from obverse.estimator.method import Method
from obverse.estimator.parts import PerSample, Request, Reward, SequenceProduct
from obverse.types import Source
from recipes import variance_table

UNIFORM = Table(torch.zeros(NUM_CONTEXTS, NUM_TOKENS, dtype=torch.float64))
EXACT = 1e-10
PAIRS_ONLY = ("apo_down", "apo_zero", "cpo", "kto", "orpo", "simpo")


@cache
def two_stages() -> list[Table]:
    return policies_at((0.1, 0.5), seed=0)


def method(name: str, num: int) -> Method:
    """The only stage of a method, with `num` rollouts."""
    (only,) = stages_of(name, num)
    return only


def score(policy: Table, ids: tuple[int, ...]) -> list[torch.Tensor]:
    """The gradient of each token's log-prob by the logits, written down by hand: one-hot minus probability."""
    rows = []
    for context, token in zip(contexts(ids), ids, strict=True):
        slope = torch.zeros_like(policy.logits)
        slope[context] -= policy.logp[context].exp()
        slope[context, token] += 1
        rows.append(slope.flatten())
    return rows


def test_the_enumerable_policy() -> None:
    everything = completions()
    assert len(everything) == len(set(everything)) == 15
    assert [ids for ids in everything if is_correct(ids)] == [(1, 1, 0), (2, 0)]
    assert math.isclose(sum(float(UNIFORM.likelihood(ids).exp()) for ids in everything), 1)
    assert math.isclose(float(UNIFORM.success()), 1 / 9 + 1 / 27)
    assert math.isclose(float(UNIFORM.value[0]), 4 / 27)
    assert math.isclose(float(UNIFORM.value[contexts((1, 1, 0))[1]]), 1 / 9)  # after a 1: another 1 and the stop
    assert greedy(Table(UNIFORM.logits + torch.tensor([0.0, 1.0, 0.5]))) == (1, 1, 1)


def test_the_true_gradient() -> None:
    gradient = UNIFORM.true_gradient().reshape(NUM_CONTEXTS, NUM_TOKENS)
    # dP/dz of the first token: what it leads to, minus its share of all
    assert torch.allclose(gradient[0], torch.tensor([-4, -1, 5]).double() / 81, atol=EXACT, rtol=0)
    assert torch.allclose(gradient.sum(1), torch.zeros(NUM_CONTEXTS, dtype=torch.float64), atol=EXACT)


def test_stages_are_where_they_say() -> None:
    policies = policies_at((0.01, 0.5, 0.9), seed=3)
    assert [float(policy.success()) for policy in policies] == pytest.approx([0.01, 0.5, 0.9], abs=1e-9)
    assert not torch.equal(policies[0].logits, policies_at((0.01,), seed=4)[0].logits)


@pytest.mark.parametrize(("name", "num"), [("reinforce", 1), ("reinforce", 2), ("rloo", 2)])
def test_unbiased(name: str, num: int) -> None:
    for policy in two_stages():
        figures = moments(method(name, num), policy, policy)
        assert figures.bias < EXACT and figures.variance > 0.1 and figures.uncertainty == 0


def test_what_the_initial_model_wrote_is_weighed_by_what_it_thought() -> None:
    """Importance sampling from the initial model is unbiased, so both the chances and the ratios are its own."""
    initial, policy = two_stages()
    term = Term(Source.ROLLOUT, Reward(), SequenceProduct(), normalizer=PerSample())
    figures = moments(Method(ask=Request(rollouts=1, author="initial"), terms=(term,)), policy, initial)
    assert figures.bias < EXACT and figures.num_groups == 15
    assert moments(Method(ask=Request(rollouts=1), terms=(term,)), policy, initial).variance < figures.variance


def test_a_constant_length_only_scales() -> None:
    figures = moments(method("dr_grpo", 2), UNIFORM, UNIFORM)
    assert figures.cosine == pytest.approx(1, abs=EXACT)
    assert figures.scale == pytest.approx((1 - 1 / 2) / 3, abs=EXACT)  # the group's own mean, and the length of three


def naive(policy: Table, num: int, weigh) -> Moments:
    """Expectation and scatter over all ordered groups; `weigh(rewards, lengths)` gives each sample's coefficient."""
    every = completions()
    chances = [float(policy.likelihood(ids).exp()) for ids in every]
    scores = [torch.stack(score(policy, ids)).sum(0) for ids in every]
    mean, square = torch.zeros_like(scores[0]), 0.0
    for members in product(range(len(every)), repeat=num):
        weights = weigh([float(is_correct(every[i])) for i in members], [len(every[i]) for i in members])
        slope = sum(weight * scores[i] for weight, i in zip(weights, members, strict=True))
        chance = math.prod(chances[i] for i in members)
        mean, square = mean + chance * slope, square + chance * float(slope @ slope)
    return exact.moments_of(mean, square, policy.true_gradient(), 0, False)


def standardized(rewards: list[float], lengths: list[int]) -> list[float]:
    mean = sum(rewards) / len(rewards)
    std = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1))
    return [
        (reward - mean) / (std + 1e-6) / length / len(rewards) for reward, length in zip(rewards, lengths, strict=True)
    ]


def correct_ones(rewards: list[float], lengths: list[int]) -> list[float]:
    num_tokens = sum(length for reward, length in zip(rewards, lengths, strict=True) if reward)
    return [reward / num_tokens if reward else 0.0 for reward in rewards]


@pytest.mark.parametrize(("name", "weigh"), [("grpo", standardized), ("raft", correct_ones)])
def test_against_naive_loops(name: str, weigh) -> None:
    initial, policy = two_stages()
    expected = naive(policy, 2, weigh)
    # the KL of the first is zero where the initial model is the policy itself
    figures = moments(method(name, 2), policy, policy if name == "grpo" else initial)
    for figure in ("bias", "cosine", "scale", "variance", "snr", "error"):
        assert getattr(figures, figure) == pytest.approx(getattr(expected, figure), rel=1e-6), figure
    assert figures.bias > 0.01


def test_imitation_does_not_scatter() -> None:
    figures = moments(method("sft", 4), UNIFORM, UNIFORM)
    assert figures.variance == 0 and figures.snr is None and figures.num_groups == 1
    mean, true = torch.stack(score(UNIFORM, (1, 1, 0))).mean(0), UNIFORM.true_gradient()
    assert figures.bias == pytest.approx(float((mean - true).norm() / true.norm()), rel=1e-9)
    assert figures.error == pytest.approx(1 - figures.cosine**2, rel=1e-9)


def test_what_points_away_knows_nothing() -> None:
    true = torch.tensor([3.0, 4.0])
    away, along = (exact.moments_of(sign * true / 5, 2.0, true, 1, False) for sign in (-1, 1))
    assert (away.cosine, away.error) == (-1, 1)
    assert (along.bias, along.scale, along.variance) == pytest.approx((0.8, 0.2, 1 / 25))
    assert (along.snr, along.error) == pytest.approx((1, 0.5))


def test_a_gate_is_both() -> None:
    """Some groups imitate, and some do not: the expectation is between, in the proportion that a run has."""
    assert method("hpt", 2).terms[0].weight == 20
    policy = two_stages()[0]
    imitates, reinforces, chooses = (
        moments(method(name, 2), policy, policy).cosine for name in ("sft", "dr_grpo", "hpt")
    )
    assert imitates < chooses < reinforces


def test_drawn_groups_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = two_stages()[1]
    whole = moments(method("raft", 2), policy, policy)
    monkeypatch.setattr(exact, "MAX_EXACT", 100)
    figures = moments(method("raft", 2), policy, policy)
    assert figures.num_groups == 100 and figures.uncertainty > 0 == whole.uncertainty
    assert figures.bias == pytest.approx(whole.bias, abs=4 * figures.uncertainty)
    assert figures.variance == pytest.approx(whole.variance, rel=0.5)


def test_hints_are_asked_for_as_often_as_they_come() -> None:
    uft = methods.build("uft", {"num_generations": 2})
    chances = {round(requests[0].hint * 2): chance for chance, _, requests in distinct_requests(uft, 0.0)}
    # Binomial(2, 0.95) steps of the demonstration
    assert chances == pytest.approx({2: 0.9025, 1: 0.095, 0: 0.0025}, abs=0.04) or chances == pytest.approx(
        {2: 0.9025, 1: 0.0975}, abs=0.04
    )
    assert sum(chances.values()) == 1


@pytest.mark.parametrize(
    "name",
    representatives_first(
        name
        for name in method_stages()
        if not name.startswith(("dpo", "ift", "reward_model", "bread", "trapo", *PAIRS_ONLY))
    ),
)
def test_every_method_has_its_moments(name: str) -> None:
    base, _, stage = name.partition(":")
    tested = stages_of(base, 2)[int(stage or 0)]
    assert not reason_against(tested)
    initial, policy = two_stages()
    figures = moments(tested, policy, initial, progress=0.5)
    assert all(math.isfinite(value) for value in vars(figures).values() if value is not None)
    assert -1 - EXACT <= figures.cosine <= 1 + EXACT and -EXACT <= figures.error <= 1 + EXACT
    assert figures.variance > 0 or figures.num_groups == 1


def test_the_question() -> None:
    result = variance(VarianceConfig(methods="sft,sft_then_rl", num_generations=2, rates="0.1,0.5"))
    plain = result.plain()
    assert [(entry["method"], entry["lane"]) for entry in plain["methods"]] == [
        ("sft", 0),
        ("sft_then_rl", 0),
        ("sft_then_rl", 1),
    ]
    assert plain["stages"][1]["success"] == pytest.approx(0.5)
    assert [stage["is_exact"] for stage in plain["methods"][0]["stages"]] == [True, True]
    assert result.table().row_count == 6
    assert [row[0] for row in result.rows()] == ["sft", "", "sft_then_rl, stage 0", "", "sft_then_rl, stage 1", ""]
    assert result.markdown().count("\n") == 7


def test_the_page_is_of_this_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "analyze.md").read_text(encoding="utf-8")
    table = page[page.index("<!-- variance -->") : page.index("<!-- end -->")].splitlines()
    fresh = variance(VarianceConfig(methods="sft,dft")).markdown().splitlines()
    assert table[1:11] == fresh, "run recipes/variance_table.py"
    assert {line.split("|")[1].strip() for line in table[3:]} - {""} == set(variance_table.METHODS.split(","))


def test_what_has_no_gradient_here_is_said() -> None:
    with pytest.raises(ConfigError, match="dpo needs pairs"):
        variance(VarianceConfig(methods="dpo"))
    assert reason_against(stages_of("reward_model", 2)[0]) == "trains no policy"
    assert "further samples" in reason_against(stages_of("trapo", 2)[0])
    assert "tabular policy" in reason_against(stages_of("ift", 2)[0])
