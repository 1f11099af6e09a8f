"""Golden numbers of the parts that compare samples in pairs or with a known score, and what they ask of a run."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from obverse.errors import ConfigError
from obverse.estimator.formula import coefficient
from obverse.estimator.method import Method
from obverse.estimator.parts import DoubleClip, ImplicitScore, PerPair, Preferred, Ranked
from obverse.estimator.parts.preference_losses import SMOOTHED, PairLoss, pulls
from obverse.estimator.tables import PartInputs, PolicyOutputs, Samples, Tokens
from obverse.methods import build
from obverse.types import Source

KINDS = {"c": Source.CHOSEN, "x": Source.REJECTED, "d": Source.DEMONSTRATION, "r": Source.ROLLOUT}
DIVERGENCES = ("reverse_kl", "forward_kl", "js", "alpha")


def inputs(
    layout: str,
    ratios: list[float],
    groups: tuple[int, ...] | None = None,
    rewards: tuple[float, ...] | None = None,
    values: list[float] | None = None,
) -> PartInputs:
    """Samples as words of one letter per token, "cc x": chosen, rejected, demonstration, rollout; log-ratios [T]."""
    words = layout.split()
    sample = torch.tensor([i for i, word in enumerate(words) for _ in word])
    source = torch.tensor([int(KINDS[letter]) for word in words for letter in word])
    position = torch.tensor([t for word in words for t in range(len(word))])
    counts = torch.zeros(len(words), len(Source), dtype=torch.long)
    counts.index_put_((sample, source), torch.ones(()).long(), accumulate=True)
    anchor = torch.full((len(sample),), 0.2, dtype=torch.float64).log()
    reward = torch.tensor(rewards or (0.0,) * len(words), dtype=torch.float64)
    group = torch.tensor(groups or (0,) * len(words))
    tokens = Tokens(sample, source, position, anchor * 0, anchor, anchor * 0)
    value = anchor * 0 if values is None else torch.tensor(values, dtype=torch.float64)
    outputs = PolicyOutputs(anchor + torch.tensor(ratios, dtype=torch.float64), anchor * 0, value)
    return PartInputs(tokens, Samples(reward, reward >= 1, group, reward < 0, counts), outputs)


def part_of(at: PartInputs, keep: Tensor) -> PartInputs:
    """A micro batch: the tokens `keep` only, all samples."""
    return at._replace(tokens=at.tokens.rows(keep), policy=PolicyOutputs(*(column[keep] for column in at.policy)))


def test_a_pair() -> None:
    pair = inputs("c x", [0.5, -0.3])
    assert Preferred(0.1)(pair).tolist() == pytest.approx([0.048001, -0.048001], abs=1e-6)
    assert Preferred(0.1).margins(pair).tolist() == pytest.approx([0.08])
    same = inputs("cc xxx", [0.2, 0.3, -0.1, -0.1, -0.1])
    assert Preferred(0.1)(same).tolist() == pytest.approx([0.048001] * 2 + [-0.048001] * 3, abs=1e-6)


def test_at_the_anchor_a_pair_gets_half_of_beta() -> None:
    for divergence in DIVERGENCES:
        slope = 0.5 if divergence == "js" else 1.0
        half = Preferred(0.3, divergence)(inputs("c x", [0.0, 0.0]))
        assert half.tolist() == pytest.approx([0.15 * slope, -0.15 * slope])


@pytest.mark.parametrize(
    ("divergence", "up", "down", "slope_up", "slope_down"),
    [
        ("forward_kl", 1 - math.exp(-0.5), 1 - math.exp(0.3), math.exp(-0.5), math.exp(0.3)),
        (
            "js",
            math.log(2 / (1 + math.exp(-0.5))),
            math.log(2 / (1 + math.exp(0.3))),
            1 / (1 + math.exp(0.5)),
            1 / (1 + math.exp(-0.3)),
        ),
        ("alpha", 2 - 2 * math.exp(-0.25), 2 - 2 * math.exp(0.15), math.exp(-0.25), math.exp(0.15)),
    ],
)
def test_divergences(divergence: str, up: float, down: float, slope_up: float, slope_down: float) -> None:
    part, pair = Preferred(0.4, divergence), inputs("c x", [0.5, -0.3])
    margin = 0.4 * (up - down)
    assert part.margins(pair).tolist() == pytest.approx([margin])
    pull = 0.4 / (1 + math.exp(margin))
    assert part(pair).tolist() == pytest.approx([pull * slope_up, -pull * slope_down])


def test_ipo_compares_means_and_stops_at_its_margin() -> None:
    uneven = inputs("cc x", [0.3, 0.5, -0.2])  # means 0.4 and -0.2
    gap = 0.6 - 1 / (2 * 0.25)
    assert Preferred(0.25, loss="ipo")(uneven).tolist() == pytest.approx([-gap, -gap, 2 * gap])
    there = inputs("cc x", [1.9, 1.7, -0.2])
    assert Preferred(0.25, loss="ipo")(there).tolist() == pytest.approx([0.0] * 3)


def test_label_smoothing_turns_some_pairs_round() -> None:
    sure = 1 / (1 + math.exp(-0.8))
    found = Preferred(1.0, label_smoothing=0.2)(inputs("c x", [0.5, -0.3]))
    assert found.tolist() == pytest.approx([0.8 * (1 - sure) - 0.2 * sure, 0.2 * sure - 0.8 * (1 - sure)])


def test_every_right_answer_is_compared_with_every_wrong_one() -> None:
    ratios, rewards = [0.1, 0.2, 0.3, 0.4, 0.5], (1.0, 0.0, 0.0, 1.0, 1.0)
    at = inputs("r r r r r", ratios, (0, 0, 0, 0, 1), rewards)
    expected = [0.0] * 5
    for better in (0, 3):
        for worse in (1, 2):
            pull = 0.1 / (1 + math.exp(0.1 * (ratios[better] - ratios[worse])))
            expected[better] += pull
            expected[worse] -= pull
    assert Preferred(0.1, with_rollouts=True)(at).tolist() == pytest.approx(expected)
    assert len(Preferred(0.1, with_rollouts=True).margins(at)) == 4
    assert PerPair(with_rollouts=True)(at, Source.ROLLOUT).tolist() == [0.25] * 5
    assert Preferred(0.1)(at).tolist() == [0.0] * 5  # grades are not read, and there are no chosen samples


@pytest.mark.parametrize("part", [*(Preferred(0.1, each) for each in DIVERGENCES), Preferred(loss="ipo"), Ranked(0.1)])
def test_one_side_alone_makes_no_pair(part: Preferred | Ranked) -> None:
    lonely = inputs("c c x", [0.5, -0.3, 0.2], (0, 0, 1))
    assert part(lonely).tolist() == [0.0] * 3
    assert part.margins(lonely).tolist() == []
    assert PerPair()(lonely, Source.CHOSEN).tolist() == [1.0] * 3
    beside = inputs("c c x c x", [0.5, -0.3, 0.2, 0.5, -0.3], (0, 0, 1, 2, 2), values=[9.0, 9.0, 9.0, 0.5, -0.3])
    pair = inputs("c x", [0.5, -0.3], values=[0.5, -0.3])
    assert part(beside).tolist() == pytest.approx([0.0] * 3 + part(pair).tolist())


@pytest.mark.parametrize("part", [Preferred(0.1), Ranked(center=0.1)])
def test_a_micro_batch_knows_its_own_pairs_only(part: Preferred | Ranked) -> None:
    both = inputs("cc x c xx", [0.5, 0.1, -0.3, 0.2, 0.7, 0.6], (0, 0, 1, 1), values=[0.5, 0.1, -0.3, 0.2, 0.7, 0.6])
    for keep in (torch.arange(3), torch.arange(3, 6)):
        piece = part_of(both, keep)
        torch.testing.assert_close(part(piece), part(both)[keep])
        assert len(part.margins(piece)) == 1
        assert PerPair()(piece, Source.CHOSEN).tolist() == [0.5] * 3


def test_a_ranking_stands_on_the_last_token() -> None:
    at = inputs("cc xxx", [0.0] * 5, values=[7.0, 1.2, 7.0, 7.0, 0.4])
    pull = 1 / (1 + math.exp(0.8))
    assert Ranked()(at).tolist() == pytest.approx([0.0, pull, 0.0, 0.0, -pull])
    assert Ranked().margins(at).tolist() == pytest.approx([0.8])
    pull, center = 1 / (1 + math.exp(0.8 - 0.5)), -2 * 0.01 * 1.6
    assert Ranked(0.5, 0.01)(at).tolist() == pytest.approx([0.0, pull + center, 0.0, 0.0, center - pull])


@pytest.mark.parametrize(("loss", "expected"), [("mse", 0.070184), ("bce", 0.140888)])
def test_an_implicit_score(loss: str, expected: float) -> None:
    at = inputs("d", [math.log(0.30 / 0.20)])
    assert ImplicitScore(0.3, loss, target=1.0)(at).tolist() == pytest.approx([expected], abs=1e-6)
    wrong = ImplicitScore(0.3, "bce", target=0.0)(at)
    assert wrong.tolist() == pytest.approx([expected - 0.3 if loss == "bce" else -0.159112], abs=1e-6)


def test_a_score_is_a_reward_between_0_and_1() -> None:
    at = inputs("r rr r", [0.0] * 4, rewards=(-1.0, 0.3, 5.0))
    assert ImplicitScore(1.0, "bce")(at).tolist() == pytest.approx([-0.5, -0.2, -0.2, 0.5])


@pytest.mark.parametrize("gap", [-2000.0, -200.0, 200.0, 2000.0])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_extreme_ratios_stay_finite(gap: float, divergence: str, loss: str) -> None:
    for ratios in ([gap, -gap], [gap, gap], [0.0, gap], [gap, 0.0]):
        at = inputs("c x", ratios)
        tokens = replace(at.tokens, anchor=at.tokens.anchor.float())
        single = at._replace(tokens=tokens, policy=PolicyOutputs(*(column.float() for column in at.policy)))
        for part in (Preferred(0.1, divergence, loss=loss), Preferred(0.1, "alpha", 3.0, loss)):
            assert part(single).isfinite().all() and part.margins(single).isfinite().all()
        assert ImplicitScore(1.0, "mse", 1.0)(single).isfinite().all()


def test_the_dual_clip() -> None:
    at, minus = inputs("r", [0.0]), torch.tensor([-0.5])
    for old, expected in ((0.09, 0.0), (0.1, -1.5), (0.24, -0.625)):
        ratio = torch.tensor([0.3 / old], dtype=torch.float64).round(decimals=12)
        assert float(DoubleClip(most=3.0)(at, ratio, minus) * ratio * -0.5) == pytest.approx(expected)
    assert DoubleClip(0.2, 5.0, 3.0)(at, torch.tensor([4.0]), -minus).tolist() == [1.0]
    with pytest.raises(ValueError, match="above 1"):
        DoubleClip(most=1.0)


@pytest.mark.parametrize(
    ("name", "options", "read", "together"),
    [
        ("dpo", {}, {"anchor"}, True),
        ("dpo", {"pairs": "own"}, {"anchor", "correct", "own_group"}, True),
        ("una", {}, {"anchor"}, False),
        ("una", {"num_generations": 2}, {"anchor", "reward"}, False),
        ("reward_model", {}, set(), True),
        ("ppo", {}, {"behavior", "advantage", "reward"}, False),
        ("ppo", {"kl_coef": 0.1}, {"behavior", "advantage", "reward", "anchor"}, False),
        ("ppo", {"kl_coef": 0.1, "kl_target": 1.0}, {"behavior", "advantage", "reward", "anchor"}, False),
    ],
)
def test_what_is_read(name: str, options: dict[str, object], read: set[str], together: bool) -> None:
    method = build(name, options)
    assert isinstance(method, Method)
    columns = ("behavior", "anchor", "advantage", "entropy", "sampler", "reward", "correct", "own_group")
    assert {column for column in columns if method.needs(column)} == read
    assert method.needs_whole_groups == together
    assert method.trains_policy == (name != "reward_model")


PULLS: dict[PairLoss, tuple[float, float, float]] = {  # label smoothing, and minus the slopes by both scores
    "sigmoid": (0.0, 0.048750260, -0.048750260),
    "hinge": (0.0, 0.1, -0.1),
    "exo_pair": (0.001, 0.171311777, -0.171311777),
    "nca_pair": (0.0, 0.022001599, -0.025374972),
    "robust": (0.1, 0.061250260, -0.061250260),
    "bco_pair": (0.0, 0.048001066, -0.050749944),
    "sppo_hard": (0.0, 8.4, -10.6),
    "apo_zero": (0.0, 0.024960043, -0.024994376),
    "apo_down": (0.0, 0.000024339, -0.024984382),
    "discopop": (0.0, -0.028540417, 0.028540417),  # the sign of a small margin
    "ipo": (0.0, 9.0, -9.0),
}


@pytest.mark.parametrize("loss", PULLS)
def test_the_losses_of_a_pair_have_their_published_slopes(loss: PairLoss) -> None:
    """TRL's losses at beta 0.1 and log-ratios of 0.8 and 0.3."""
    smoothing, *expected = PULLS[loss]
    scores = (torch.tensor([0.8], dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64))
    slopes = [float(pull) for pull in pulls(loss, *scores, 0.1, smoothing, 0.0)]
    assert slopes == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("loss", [loss for loss in get_args(PairLoss) if not loss.startswith("aot")])
def test_a_loss_is_finite_at_scores_far_apart(loss: PairLoss) -> None:
    for better, worse in ((1e4, -1e4), (-1e4, 1e4), (0.0, 0.0)):
        up, down = pulls(loss, torch.tensor([better]), torch.tensor([worse]), 2.0, 0.1 * (loss in SMOOTHED), 0.5)
        assert torch.isfinite(up).all() and torch.isfinite(down).all()


def test_simpo_and_orpo_have_their_published_coefficients() -> None:
    """One token each: simpo at beta 2, gamma 1 and a - b = 0.3, orpo's odds ratio at beta 0.1, a -1 and b -1.5."""
    simpo, orpo = build("simpo"), build("orpo")
    assert isinstance(simpo, Method) and isinstance(orpo, Method)
    at = inputs("c x", [0.5, 0.2])
    assert coefficient(at, simpo.terms).tolist() == pytest.approx([1.197375320, -1.197375320], abs=1e-9)
    at = inputs("c x", [-1.0 - math.log(0.2), -1.5 - math.log(0.2)])
    assert coefficient(at, orpo.terms[1:]).tolist() == pytest.approx([0.052274943, -0.042534881], abs=1e-9)


@pytest.mark.parametrize(
    ("options", "slope"),
    [({}, 0.024984382), ({"loss": "apo_zero_unpaired"}, 0.024960043), ({"beta": 0.2}, 0.049875208)],
)
def test_kto_has_its_published_coefficients(options: dict[str, object], slope: float) -> None:
    """A log-ratio of 0.8 and z_0 of 0.3 at beta 0.1, and 0.2 s (1 - s) of s(0.1); two rows without a partner."""
    kto = build("kto", options | {"desirable_weight": 1.5, "undesirable_weight": 0.5})
    assert isinstance(kto, Method)
    at = inputs("cc x", [0.5, 0.3, 0.8], groups=(0, 1))
    at = at._replace(samples=replace(at.samples, memory=torch.full((2,), 0.3, dtype=torch.float64)))
    expected = [1.5 * slope / 2] * 2 + [-0.5 * slope / 2]
    assert coefficient(at, kto.terms).tolist() == pytest.approx(expected, abs=1e-9)


def test_the_share_counts_pairs_in_the_loss() -> None:
    method = build("dpo", {"pairs": "own", "beta": 1.0})
    at = inputs("rr r r", [0.0] * 4, rewards=(1.0, 0.0, 0.0))
    assert coefficient(at, method.terms).tolist() == pytest.approx([0.5, 0.5, -0.25, -0.25])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dpo", {"beta": 0.0}),
        ("dpo", {"divergence": "alpha", "alpha": 1.0}),
        ("dpo", {"label_smoothing": 0.5}),
        ("dpo", {"label_smoothing": 0.1, "loss": "ipo"}),
        ("una", {"data": "none"}),
        ("una", {"beta": -1.0}),
        ("reward_model", {"center_rewards_coefficient": -0.1}),
        ("ppo", {"kl_target": 0.1}),
        ("ppo", {"kl_target": 0.1, "kl_coef": 0.1, "kl_in_reward": False}),
        ("ppo", {"kl_target": -0.1, "kl_coef": 0.1}),
        ("ppo", {"kl_coef": 0.1, "kl_in_reward": False, "kl_estimator": "k1"}),
        ("ppo", {"dual_clip": 1.0}),
        ("ppo", {"value_clip": 0.0}),
        ("ppo", {"lam": 1.5}),
    ],
)
def test_options_that_mean_nothing_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        build(name, options)
