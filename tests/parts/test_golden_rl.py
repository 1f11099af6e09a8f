"""Golden numbers of the parts that methods on own samples are made of, and what they keep of a group."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from parts.test_golden import Fixed, inputs, weight

from obverse.errors import ConfigError
from obverse.estimator.formula import Term
from obverse.estimator.parts import (
    AnchorPenalty,
    BackToAnchor,
    Behavior,
    BestOf,
    CappedBehavior,
    Clip,
    ClippedMean,
    CorrectOnly,
    Demonstrated,
    DistinctCorrect,
    Geometric,
    ImplicitNegative,
    LeaveOneOut,
    MixedOutcomes,
    One,
    Overlong,
    PerPrefixToken,
    PerSample,
    PerSequence,
    PerToken,
    Prefix,
    PrefixRequest,
    Propagated,
    Reward,
    Right,
    SequenceMean,
    SequenceProduct,
    Soft,
    TokenClip,
    TowardsAnchor,
    Whitened,
    Wrong,
)
from obverse.estimator.schedule import only
from obverse.estimator.tables import PartInputs
from obverse.methods import build
from obverse.types import GradeResult, Group, ModelInput, Problem, Sample, Source


def group(*right: bool, demonstrations: int = 0) -> Group:
    grades = [GradeResult.passed() if each else GradeResult.failed("no") for each in right]
    own = [Sample("rollout", ModelInput((1,)), [2], [Source.ROLLOUT], [-0.1], "", grade=grade) for grade in grades]
    shown = Sample(
        "demonstration", ModelInput((1,)), [2], [Source.DEMONSTRATION], [0.0], "", grade=GradeResult.passed()
    )
    return Group(Problem("p", "x"), [*own, *[shown] * demonstrations])


def test_a_higher_upper_clip() -> None:
    low, high = (
        Term(Source.ROLLOUT, Fixed(0.5), Behavior(), Clip(0.2, up), normalizer=PerToken()) for up in (0.2, 0.28)
    )
    assert weight(low, inputs(old=0.24)) == 0.0
    assert weight(high, inputs(old=0.24)) == pytest.approx(0.625)


@pytest.mark.parametrize(
    ("old", "cap", "floor", "expected"), [(0.24, 1.2, 0.0, 0.6), (0.6, 1.2, 0.8, 0.4), (0.6, 1.2, 0.0, 0.25)]
)
def test_a_capped_ratio_is_no_mask(old: float, cap: float, floor: float, expected: float) -> None:
    term = Term(Source.ROLLOUT, Fixed(0.5), CappedBehavior(cap, floor), normalizer=PerToken())
    assert weight(term, inputs(old=old)) == pytest.approx(expected, abs=1e-12)


def test_leave_one_out_batch_and_no_baseline() -> None:
    four = inputs((1.0, 0.0, 0.0, 1.0))
    assert LeaveOneOut()(four).tolist() == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])
    assert LeaveOneOut()(inputs((1.0,))).tolist() == [0.0]
    assert Reward()(four).tolist() == [1.0, 0.0, 0.0, 1.0]
    apart = inputs((1.0, 0.0, 0.0, 0.0), groups=(0, 1, 2, 3))
    assert Whitened()(apart).tolist() == pytest.approx([0.75, -0.25, -0.25, -0.25])
    assert Whitened(scale=True)(four).tolist() == pytest.approx([1.0, -1.0, -1.0, 1.0])
    assert Whitened(scale=True)(inputs((0.3,) * 4)).abs().max() < 1e-9


def test_whitening_counts_tokens() -> None:
    uneven = inputs((1.0, 0.0))
    counts = uneven.samples.counts * torch.tensor([[3], [1]])
    assert Whitened()(uneven._replace(samples=replace(uneven.samples, counts=counts))).tolist() == [0.25, -0.75]


def test_the_ratio_of_a_sequence() -> None:
    three = inputs((1.0,), tokens=3)  # every token's ratio is 1.2
    for reference, expected in ((SequenceMean(), 1.2), (SequenceProduct(), 1.2**3)):
        term = Term(Source.ROLLOUT, Fixed(1.0), reference, normalizer=PerSample())
        assert weight(term, three) == pytest.approx(expected)


def test_the_clip_inside_a_geometric_mean() -> None:
    pair = inputs((1.0, 0.0), old=0.3 / math.exp(0.6))  # log-ratio 0.6
    term = Term(Source.ROLLOUT, Fixed(1.0), ClippedMean(0.4, 0.4), normalizer=PerSample())
    assert weight(term, pair) == pytest.approx(math.exp(0.4) / 2)
    gate, ratio = TokenClip(0.4, 0.4), torch.ones(2, dtype=torch.float64)
    assert gate(pair, ratio, ratio).tolist() == [0.0, 0.0]
    assert gate(pair, ratio, -ratio).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("epsilon", "expected"), [(1.0, -0.3), (0.2, -0.321429)])
def test_right_and_wrong_answers_in_supervised_learning(epsilon: float, expected: float) -> None:
    four = inputs((1.0, 0.0, 0.0, 0.0))
    assert Right(1)(four).tolist() == pytest.approx([0.75, 0.0, 0.0, 0.0])
    assert Right(2)(four).tolist()[0] == pytest.approx(math.sqrt(3))
    term = Term(Source.ROLLOUT, Fixed(1.0), ImplicitNegative(epsilon), normalizer=PerSample())
    ratio = 4 * weight(term, four)
    assert ratio * Wrong(1)(four).tolist()[1] == pytest.approx(expected, abs=1e-6)


def test_success_rates_stay_off_the_ends() -> None:
    assert Wrong(0)(inputs((0.0, 0.0))).tolist() == pytest.approx([-0.02 / 0.98] * 2)


def test_a_soft_gate_is_one_on_policy() -> None:
    gate, one = Soft(), torch.ones(1, dtype=torch.float64)
    assert gate(inputs(), one, one).tolist() == [1.0]
    sigmoid = 1 / (1 + math.exp(-1.05))
    assert gate(inputs(), 2 * one, -one).tolist() == pytest.approx([4 * sigmoid * (1 - sigmoid)])


@pytest.mark.parametrize(
    ("right", "kept"), [((True, False), 2), ((True, True), 0), ((False, False), 0), ((True,), 0), ((), 0)]
)
def test_only_mixed_outcomes_train(right: tuple[bool, ...], kept: int) -> None:
    assert len(MixedOutcomes()(group(*right, demonstrations=1))) == kept


def test_accuracy_decides_not_the_reward() -> None:
    shaped = group(False, False)
    shaped.samples[0].grade = GradeResult(False, 0.5)
    assert MixedOutcomes()(shaped) == []


def test_only_correct_rollouts_train() -> None:
    kept = CorrectOnly()(group(True, False, True, demonstrations=1))
    assert [(sample.kind, sample.correct) for sample in kept] == [("rollout", True)] * 2


@pytest.mark.parametrize(
    ("pulls", "expected"),
    [
        (
            (Term(Source.ROLLOUT, One(), normalizer=PerToken(), weight=-0.05),),
            -0.05,
        ),  # k1: minus its gradient is a constant
        ((Term(Source.ROLLOUT, BackToAnchor(), normalizer=PerToken(), weight=0.05),), -0.020273),  # k2
        ((Term(Source.ROLLOUT, TowardsAnchor(), normalizer=PerToken(), weight=0.05),), -0.016667),  # k3
        (  # the ratio times k1, in two terms: 1 + d
            (
                Term(Source.ROLLOUT, BackToAnchor(), Behavior(), normalizer=PerToken(), weight=0.05),
                Term(Source.ROLLOUT, One(), Behavior(), normalizer=PerToken(), weight=-0.05),
            ),
            -0.084328,
        ),
        (
            (Term(Source.ROLLOUT, BackToAnchor(), Behavior(), normalizer=PerToken(), weight=0.05),),
            -0.024328,
        ),  # ratio k3
    ],
)
def test_divergences_in_the_loss(pulls: tuple[Term, ...], expected: float) -> None:
    assert sum(weight(term, inputs()) for term in pulls) == pytest.approx(expected, abs=1e-6)


def test_a_divergence_in_the_reward_adds_up_over_the_answer() -> None:
    three = inputs((1.0,), tokens=3)
    gap = math.log(0.25 / 0.20)
    for estimator, value in (("k1", gap), ("k2", gap**2 / 2), ("k3", 0.8 + gap - 1)):
        penalty = three.sample_sum(AnchorPenalty(0.05, estimator)(three))
        assert penalty.tolist() == pytest.approx([-0.15 * value])


def in_order(at: PartInputs) -> PartInputs:
    """The view with positions that count within each sample."""
    position = torch.arange(len(at.tokens)) % int(at.samples.counts.sum(1)[0])
    return at._replace(tokens=replace(at.tokens, position=position))


@pytest.mark.parametrize(("num", "expected"), [(5, 0.0), (6, 0.0), (7, -0.25), (8, -0.5), (10, -1.0), (12, -1.5)])
def test_long_answers_are_penalized_little_by_little(num: int, expected: float) -> None:
    penalty = Overlong(10, 4)(in_order(inputs((1.0, 0.0), tokens=num)))
    assert penalty.reshape(2, num)[:, -1].tolist() == pytest.approx([expected] * 2)
    assert penalty.reshape(2, num)[:, :-1].abs().max() == 0


@pytest.mark.parametrize(("length", "cache"), [(20480, 4096), (512, 102), (3, 1)])
def test_the_overlong_cache_is_a_fifth_of_the_length(length: int, cache: int) -> None:
    method = only(build("dapo", {"max_completion_length": length}))
    assert method.shaping == (Overlong(length, cache, 1.0),)
    assert method.max_rounds == 10


def test_the_loss_that_follows_a_token() -> None:
    pair = in_order(inputs((1.0,), tokens=2))
    pair = pair._replace(policy=pair.policy._replace(logp=torch.tensor([-1.0, -2.0], dtype=torch.float64)))
    assert Propagated(0.5)(pair).tolist() == pytest.approx([0.375, 0.5625])
    assert Geometric(0.5)(pair).tolist() == [1.0, 1.5]
    assert Geometric(1.0)(pair).tolist() == [1.0, 2.0]
    known = pair._replace(policy=pair.policy._replace(logp=0 * pair.policy.logp))
    assert Propagated(0.5)(known).tolist() == [0.0, 0.0]


def test_ift_without_its_two_ideas_is_a_mean_per_sequence() -> None:
    method = only(build("ift", {"greedy_share": 0.0, "gamma": 0.0}))
    pair = in_order(inputs((1.0, 0.0), tokens=3))
    (term,) = method.terms
    assert method.inputs is None and only(build("ift")).inputs is not None
    assert (term.normalizer(pair, Source.ROLLOUT) * term.advantage(pair)).tolist() == pytest.approx([1 / 6] * 6)


def test_a_prefix_counts_or_the_whole_answer() -> None:
    three = in_order(inputs((1.0, 0.0, 0.0), tokens=4))
    three = three._replace(samples=replace(three.samples, uniform=torch.tensor([0.5, 0.05, 0.1], dtype=torch.float64)))
    one = torch.ones(12, dtype=torch.float64)
    assert Prefix(3, whole_fraction=0.1)(three, one, one).reshape(3, 4).sum(1).tolist() == [3.0, 4.0, 3.0]
    assert PerPrefixToken(3, whole_fraction=0.1)(three, Source.ROLLOUT).tolist() == [0.1] * 12


def test_as_many_problems_are_whole_as_are_asked_for() -> None:
    problems = [Problem(f"p{i}", "x") for i in range(2000)]
    requests = [request for problem in problems for request in PrefixRequest(8, whole_fraction=0.25)(problem, 0.0)]
    assert {request.author for request in requests} == {"initial"} and {request.rollouts for request in requests} == {1}
    assert {request.max_tokens for request in requests} == {None, 8}
    assert sum(request.max_tokens is None for request in requests) / 2000 == pytest.approx(0.25, abs=0.03)
    agree = [
        (request.max_tokens is None) == (each.uniform < 0.25) for request, each in zip(requests, problems, strict=True)
    ]
    assert all(agree)


def test_an_answer_counts_once() -> None:
    found = group(True, True, True, False)
    for sample, text in zip(found.samples, ("a", "b", "a", "b"), strict=True):
        sample.text = text
    assert DistinctCorrect()(found) == found.samples[:2]


def test_the_best_answer_is_the_first_of_several() -> None:
    found = group(False, True, True, demonstrations=1)
    assert BestOf()(found) == [found.samples[1]]
    assert BestOf()(group()) == []


def test_without_a_demonstration_there_is_nothing_to_contrast() -> None:
    assert len(Demonstrated()(group(False, demonstrations=1))) == 2
    assert Demonstrated()(group(True, False)) == []


def test_a_share_may_count_another_sources_samples() -> None:
    four = inputs((1.0, 0.0, 0.0, 0.0), tokens=2)
    counts = four.samples.counts.clone()
    counts[0], counts[0, int(Source.DEMONSTRATION)] = 0, 2
    four = four._replace(samples=replace(four.samples, counts=counts))
    shown = (Source.DEMONSTRATION,)
    assert PerSample()(four, Source.ROLLOUT)[2].item() == pytest.approx(1 / 3)
    assert PerSample(shown)(four, Source.ROLLOUT)[2].item() == 1.0
    assert PerSequence(shown)(four, Source.ROLLOUT)[2].item() == 0.5
    assert (str(PerSample()), str(PerSample(shown))) == ("per_sample", "per_sample(sources=demonstration)")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nft", {"prompt_weight": 3}),
        ("nft", {"epsilon": 0.0}),
        ("nft", {"neg_weight": -1.0}),
        ("reinforce", {"scale_rewards": "batch"}),
        ("reinforce", {"scale_rewards": "batch", "baseline": "greedy"}),
        ("dapo", {"max_completion_length": 100, "overlong_cache_length": 101}),
        ("discriminative", {"num_generations": 0}),
        ("discriminative", {"gamma": 0.0}),
        ("ift", {"gamma": 1.5}),
    ],
)
def test_options_that_mean_nothing_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="must|needs"):
        build(name, options)
