"""Golden numbers of the parts that methods on own samples are made of, and what they keep of a group."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from parts.test_golden import Fixed, view, weight

from obverse.errors import ConfigError
from obverse.estimator import Term
from obverse.methods import build
from obverse.parts import (
    Behavior,
    CappedBehavior,
    Clip,
    ClippedMean,
    CorrectOnly,
    ImplicitNegative,
    LeaveOneOut,
    MixedOutcomes,
    PerSample,
    PerToken,
    Reward,
    Right,
    SequenceMean,
    SequenceProduct,
    Soft,
    TokenClip,
    Whitened,
    Wrong,
)
from obverse.records import Group, Problem, Sample, Source, Verdict


def group(*right: bool, demonstrations: int = 0) -> Group:
    verdicts = [Verdict.right() if each else Verdict.wrong("no") for each in right]
    own = [Sample("rollout", [1], [2], [Source.ROLLOUT], [-0.1], "", verdict=verdict) for verdict in verdicts]
    shown = Sample("demonstration", [1], [2], [Source.DEMONSTRATION], [0.0], "", verdict=Verdict.right())
    return Group(Problem("p", "x"), [*own, *[shown] * demonstrations])


def test_a_higher_upper_clip() -> None:
    low, high = (Term(Source.ROLLOUT, Fixed(0.5), Behavior(), Clip(0.2, up), share=PerToken()) for up in (0.2, 0.28))
    assert weight(low, view(old=0.24)) == 0.0
    assert weight(high, view(old=0.24)) == pytest.approx(0.625)


@pytest.mark.parametrize(
    ("old", "cap", "floor", "expected"), [(0.24, 1.2, 0.0, 0.6), (0.6, 1.2, 0.8, 0.4), (0.6, 1.2, 0.0, 0.25)]
)
def test_a_capped_ratio_is_no_mask(old: float, cap: float, floor: float, expected: float) -> None:
    term = Term(Source.ROLLOUT, Fixed(0.5), CappedBehavior(cap, floor), share=PerToken())
    assert weight(term, view(old=old)) == pytest.approx(expected, abs=1e-12)


def test_leave_one_out_batch_and_no_baseline() -> None:
    four = view((1.0, 0.0, 0.0, 1.0))
    assert LeaveOneOut()(four).tolist() == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])
    assert LeaveOneOut()(view((1.0,))).tolist() == [0.0]
    assert Reward()(four).tolist() == [1.0, 0.0, 0.0, 1.0]
    apart = view((1.0, 0.0, 0.0, 0.0), groups=(0, 1, 2, 3))
    assert Whitened()(apart).tolist() == pytest.approx([0.75, -0.25, -0.25, -0.25])
    assert Whitened(scale=True)(four).tolist() == pytest.approx([1.0, -1.0, -1.0, 1.0])
    assert Whitened(scale=True)(view((0.3,) * 4)).abs().max() < 1e-9


def test_whitening_counts_tokens() -> None:
    uneven = view((1.0, 0.0))
    counts = uneven.samples.counts * torch.tensor([[3], [1]])
    assert Whitened()(uneven._replace(samples=replace(uneven.samples, counts=counts))).tolist() == [0.25, -0.75]


def test_the_ratio_of_a_sequence() -> None:
    three = view((1.0,), tokens=3)  # every token's ratio is 1.2
    for reference, expected in ((SequenceMean(), 1.2), (SequenceProduct(), 1.2**3)):
        term = Term(Source.ROLLOUT, Fixed(1.0), reference, share=PerSample())
        assert weight(term, three) == pytest.approx(expected)


def test_the_clip_inside_a_geometric_mean() -> None:
    pair = view((1.0, 0.0), old=0.3 / math.exp(0.6))  # log-ratio 0.6
    term = Term(Source.ROLLOUT, Fixed(1.0), ClippedMean(0.4, 0.4), share=PerSample())
    assert weight(term, pair) == pytest.approx(math.exp(0.4) / 2)
    gate, ratio = TokenClip(0.4, 0.4), torch.ones(2, dtype=torch.float64)
    assert gate(pair, ratio, ratio).tolist() == [0.0, 0.0]
    assert gate(pair, ratio, -ratio).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("epsilon", "expected"), [(1.0, -0.3), (0.2, -0.321429)])
def test_right_and_wrong_answers_in_supervised_learning(epsilon: float, expected: float) -> None:
    four = view((1.0, 0.0, 0.0, 0.0))
    assert Right(1)(four).tolist() == pytest.approx([0.75, 0.0, 0.0, 0.0])
    assert Right(2)(four).tolist()[0] == pytest.approx(math.sqrt(3))
    term = Term(Source.ROLLOUT, Fixed(1.0), ImplicitNegative(epsilon), share=PerSample())
    ratio = 4 * weight(term, four)
    assert ratio * Wrong(1)(four).tolist()[1] == pytest.approx(expected, abs=1e-6)


def test_success_rates_stay_off_the_ends() -> None:
    assert Wrong(0)(view((0.0, 0.0))).tolist() == pytest.approx([-0.02 / 0.98] * 2)


def test_a_soft_gate_is_one_on_policy() -> None:
    gate, one = Soft(), torch.ones(1, dtype=torch.float64)
    assert gate(view(), one, one).tolist() == [1.0]
    sigmoid = 1 / (1 + math.exp(-1.05))
    assert gate(view(), 2 * one, -one).tolist() == pytest.approx([4 * sigmoid * (1 - sigmoid)])


@pytest.mark.parametrize(
    ("right", "kept"), [((True, False), 2), ((True, True), 0), ((False, False), 0), ((True,), 0), ((), 0)]
)
def test_only_mixed_outcomes_train(right: tuple[bool, ...], kept: int) -> None:
    assert len(MixedOutcomes()(group(*right, demonstrations=1))) == kept


def test_accuracy_decides_not_the_reward() -> None:
    shaped = group(False, False)
    shaped.samples[0].verdict = Verdict(False, 0.5)
    assert MixedOutcomes()(shaped) == []


def test_only_correct_rollouts_train() -> None:
    kept = CorrectOnly()(group(True, False, True, demonstrations=1))
    assert [(sample.kind, sample.correct) for sample in kept] == [("rollout", True)] * 2


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nft", {"prompt_weight": 3}),
        ("nft", {"epsilon": 0.0}),
        ("nft", {"neg_weight": -1.0}),
        ("reinforce", {"scale_rewards": "batch"}),
    ],
)
def test_options_that_mean_nothing_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="must|needs"):
        build(name, options)
