"""Golden numbers of what a demonstrated token is worth: p = 0.30, pi_anchor = 0.20, computed by hand; the schedules."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from obverse.estimator.formula import Term, coefficient
from obverse.estimator.parts import (
    AnchorRatio,
    Doubt,
    JensenShannon,
    OwnCentered,
    OwnStandardized,
    Part,
    Pearson,
    PerToken,
    Rest,
    SequenceAnchorRatio,
    SquaredHellinger,
    Undecided,
    Unit,
    WarmCosine,
)
from obverse.estimator.tables import PartInputs, PolicyOutputs, Samples, Tokens
from obverse.types import Source


def inputs(
    probabilities: tuple[float, ...] = (0.30,),
    anchors: tuple[float, ...] = (0.20,),
    owners: tuple[int, ...] = (0,),
    source: Source = Source.DEMONSTRATION,
) -> PartInputs:
    """One group of samples of one source; each token has its probability, its anchor's and its owner."""
    logs = lambda values: torch.tensor(values, dtype=torch.float64).log()  # noqa: E731
    owner = torch.tensor(owners)
    num = int(owner.max()) + 1
    counts = torch.zeros(num, len(Source), dtype=torch.long)
    counts[:, int(source)] = torch.bincount(owner)
    outputs = PolicyOutputs(logs(probabilities), torch.ones(len(owners), dtype=torch.float64))
    nothing = torch.zeros_like(outputs.logp)
    tokens = Tokens(owner, torch.full_like(owner, int(source)), owner * 0, nothing, logs(anchors), nothing)
    reward = torch.ones(num, dtype=torch.float64)
    return PartInputs(tokens, Samples(reward, reward > 0, owner[:num] * 0, reward < 0, counts), outputs)


def group(rewards: tuple[float, ...], shown_reward: float) -> PartInputs:
    """Own samples of one token each, and one demonstration, in one group."""
    num = len(rewards) + 1
    at = inputs((0.3,) * num, (0.2,) * num, tuple(range(num)), Source.ROLLOUT)
    at.samples.counts[-1] = torch.eye(len(Source), dtype=torch.long)[int(Source.DEMONSTRATION)]
    reward = torch.tensor([*rewards, shown_reward], dtype=torch.float64)
    return at._replace(samples=replace(at.samples, reward=reward, group=torch.zeros(num, dtype=torch.long)))


# x = beta log 1.5 = 0.4054651 beta
@pytest.mark.parametrize(
    ("advantage", "expected"),
    [
        (Doubt(2.0), 0.995669),
        (Doubt(2.0, detached=True), 0.49),
        (Doubt(0.0), 1.0),
        (Undecided(), 0.21),
        (AnchorRatio(0.2, 1.8), 1.5),
        (AnchorRatio(0.2, 1.4), 1.4),
        (AnchorRatio(1.6, 1.8), 1.6),
        (SequenceAnchorRatio(0.0, 16.0), 1.5),
        (SequenceAnchorRatio(0.0, 16.0, tau=2.0), 2.25),
        (Pearson(1.0), 0.797267),
        (SquaredHellinger(1.0), 0.506244),
        (JensenShannon(1.0), 0.5),
    ],
    ids=str,
)
def test_the_worth_of_a_token(advantage: Part, expected: float) -> None:
    term = Term(Source.DEMONSTRATION, advantage, normalizer=PerToken())
    assert float(coefficient(inputs(), (term,))) == pytest.approx(expected, abs=1e-6)


def test_a_reference_of_one_leaves_the_probability() -> None:
    term = Term(Source.DEMONSTRATION, reference=Unit(), normalizer=PerToken())
    assert float(coefficient(inputs(), (term,))) == pytest.approx(0.3, abs=1e-12)


def test_a_sequence_has_one_ratio_its_geometric_mean() -> None:
    # sample 0: ratios 1.5 and 6, whose geometric mean is 3; sample 1: 0.5
    at = inputs((0.3, 0.6, 0.1), (0.2, 0.1, 0.2), (0, 0, 1))
    assert SequenceAnchorRatio(0.0, 16.0)(at).tolist() == pytest.approx([3.0, 3.0, 0.5])
    assert SequenceAnchorRatio(0.6, 2.0)(at).tolist() == pytest.approx([2.0, 2.0, 0.6])


@pytest.mark.parametrize(("part", "expected"), [(SquaredHellinger(1.0), 4.0), (JensenShannon(1.0), 4.693484)], ids=str)
def test_no_pole_where_the_policy_has_fallen_far_below_the_anchor(part: Part, expected: float) -> None:
    for probability in (0.1, 1e-4, 1e-80):
        assert float(part(inputs((probability,), (0.9,)))) == pytest.approx(expected, abs=1e-6)


def test_divergences_are_plain_imitation_where_the_policy_is_the_anchor() -> None:
    at = inputs((0.2,), (0.2,))
    assert [float(part(at)) for part in (Pearson(0.7), SquaredHellinger(0.7), JensenShannon(0.7))] == [1.0] * 3


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_doubt_is_finite_at_certainty(gamma: float) -> None:
    at = inputs((1.0, 1e-300), (0.2, 0.2), (0, 0))
    assert Doubt(gamma)(at).tolist() == pytest.approx([0.0, 1.0], abs=2e-3)


@pytest.mark.parametrize("shown_reward", [1.0, 0.0, float("nan")])
def test_a_demonstration_changes_no_own_advantage(shown_reward: float) -> None:
    four = group((1.0, 0.0, 0.0, 1.0), shown_reward)
    assert OwnCentered()(four).tolist() == [0.5, -0.5, -0.5, 0.5, 0.0]
    assert OwnStandardized()(four).tolist() == pytest.approx([0.866, -0.866, -0.866, 0.866, 0.0], abs=1e-3)
    assert OwnStandardized()(group((0.3,) * 4, shown_reward)).abs().max() == 0
    assert OwnStandardized()(group((1.0,), shown_reward)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 0.0), (0.05, 0.45), (0.1, 0.9), (0.3, 0.475), (0.5, 0.05), (1.0, 0.05)]
)
def test_up_in_a_line_and_down_along_a_cosine(progress: float, expected: float) -> None:
    schedule = WarmCosine(0.9, 0.05, warmup=0.1, decay=0.4)
    assert schedule(progress) == pytest.approx(expected)
    assert Rest(schedule)(progress) == pytest.approx(1 - expected)


def test_a_schedule_without_warmup_starts_at_its_peak_and_without_decay_is_its_valley() -> None:
    assert WarmCosine(0.9, 0.05)(0.0) == pytest.approx(0.9)
    assert WarmCosine(0.9, 0.05, warmup=0.0, decay=0.0)(0.0) == 0.05
    assert str(Rest(WarmCosine(0.9, 0.05))) == "rest(of=warm_cosine(peak=0.9, valley=0.05, warmup=0, decay=1))"
