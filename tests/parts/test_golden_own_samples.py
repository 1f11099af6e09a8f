"""Golden numbers of methods on own samples: token weights of small updates, through `obverse weigh`'s function."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from obverse import methods
from obverse.analysis.step_coefficients import weigh
from obverse.errors import ConfigError, UserError

NEAR = pytest.approx


def row(reward: float, *tokens: tuple[float, float], problem: str = "p", **columns: Any) -> dict[str, Any]:
    """A rollout of a step file; each token has its probability under the policy and the one that sampled."""
    logp, behavior = ([math.log(token[side]) for token in tokens] for side in (0, 1))
    sample = {"problem": problem, "kind": "rollout", "reward": reward, "source": ["rollout"] * len(tokens)}
    return {**sample, "logp": logp, "behavior": behavior, **columns}


def with_ratio(reward: float, ratio: float, num_tokens: int = 1) -> dict[str, Any]:
    """A rollout whose sequence ratio is `ratio`, equally divided over its tokens."""
    return row(reward, *[(0.3 * ratio ** (1 / num_tokens), 0.3)] * num_tokens)


def weights(name: str, rows: Sequence[Mapping[str, Any]], **options: Any) -> list[list[float]]:
    samples = weigh(name, {"samples": list(rows)}, options)["samples"]
    return [sample["coefficient"] for sample in samples]


def flat(name: str, rewards: Sequence[float], **options: Any) -> list[float]:
    """Advantages of samples of one token on policy: the coefficients times the number of tokens."""
    return [
        len(rewards) * value for (value,) in weights(name, [row(reward, (0.3, 0.3)) for reward in rewards], **options)
    ]


SAME = (0.5, 0.5)


@pytest.mark.parametrize(
    ("tokens", "options", "is_kept"),
    [
        ((0.30, 0.25), {"epsilon_high": 0.0500001}, True),  # TV 0.05
        ((0.30, 0.25), {"epsilon_high": 0.0499999}, False),
        ((0.30, 0.25), {"epsilon": 0.0, "epsilon_high": 0.1}, True),  # `epsilon` bounds falls
        ((0.25, 0.30), {"epsilon_high": 0.0, "epsilon": 0.1}, True),
        ((0.30, 0.25), {"form": "kl", "epsilon_high": 0.006164265}, True),
        ((0.30, 0.25), {"form": "kl", "epsilon_high": 0.006164263}, False),
        ((0.25, 0.30), {"form": "kl", "epsilon_high": 0.0, "epsilon": 1.0}, True),  # it moved back
        ((0.60, 0.50), {}, True),  # a ratio clip at 0.2 keeps it too
        ((0.70, 0.50), {}, False),
        ((0.002, 0.001), {}, True),  # a ratio of 2
    ],
)
def test_dppo_bounds_rises_of_right_answers(
    tokens: tuple[float, float], options: dict[str, Any], is_kept: bool
) -> None:
    rows = [row(1.0, tokens), row(0.0, SAME)]
    expected = tokens[0] / tokens[1] * 0.5 / (3000 * 2) if is_kept else 0.0
    assert weights("dppo", rows, **options)[0] == [NEAR(expected, rel=1e-9)]


def test_dppo_bounds_falls_of_wrong_answers_and_caps_the_ratio() -> None:
    rows = [row(0.0, (0.25, 0.30), (0.30, 0.50), (0.60, 0.02)), row(1.0, SAME)]
    unit = -0.5 / (3000 * 2)
    assert weights("dppo", rows)[0] == NEAR([unit * 0.25 / 0.30, 0.0, unit * 20])  # 30 is capped
    assert weights("dppo", rows, ratio_cap=3.0)[0] == NEAR([unit * 0.25 / 0.30, 0.0, unit * 3])
    assert weights("dppo", rows, form="kl")[0] == NEAR([unit * 0.25 / 0.30, 0.0, unit * 20])
    near_one = [row(1.0, (1.0, 1.0), (1.0, 0.5), (0.5, 1.0)), row(0.0, SAME)]
    assert [value > 0 for value in weights("dppo", near_one, form="kl")[0]] == [True, False, True]


def test_dppo_may_bound_the_distance_to_the_sampler() -> None:
    rows = [row(1.0, (0.30, 0.30), sampler=[math.log(0.1)]), row(0.0, SAME, sampler=[math.log(0.5)])]
    assert weights("dppo", rows)[0][0] > 0
    assert weights("dppo", rows, sampled_by="sampler") == [[0.0], [NEAR(-0.5 / 6000)]]


def test_maxrl_divides_by_the_mean() -> None:
    assert flat("maxrl", (1, 0, 0, 0)) == NEAR([2.999988, -0.999996, -0.999996, -0.999996], abs=1e-9)
    assert flat("maxrl", (0, 0, 0)) == [0.0] * 3 and flat("maxrl", (1,)) == [0.0]
    rows = [with_ratio(0.0, 3.1), with_ratio(0.0, 2.9), with_ratio(1.0, 1.0), with_ratio(1.0, 1.0)]
    assert weights("maxrl", rows)[0] == [0.0] and weights("maxrl", rows)[1][0] < 0
    assert weights("maxrl", rows, dual_clip=None)[0][0] < 0


def test_maxrl_refuses_negative_rewards() -> None:
    with pytest.raises(ConfigError, match="at least 0"):
        flat("maxrl", (1, -1))


def test_nsr_weighs_right_and_wrong() -> None:
    assert flat("nsr", (1, 0, 0, 0.5)) == NEAR([0.1, -1, -1, -1])  # a partial reward is a wrong answer
    assert flat("nsr", (1, 0), positive_weight=1.0) == NEAR([1, -1])
    assert flat("nsr", (0, 0)) == NEAR([-1, -1])  # no baseline
    assert weights("nsr", [row(1, SAME), row(0, SAME), row(0, SAME)], positive_weight=0.0) == [[0.0], [-0.5], [-0.5]]
    assert weights("nsr", [row(0, (0.39, 0.5)), row(0, (0.41, 0.5))]) == [[0.0], [NEAR(-0.41)]]


def test_passk_golden() -> None:
    first, *rest = flat("passk", (1, 0, 0, 0), k=2)
    assert [first, *rest] == NEAR([0.999998, *[-0.333332667] * 3], abs=1e-9)
    first, second, *rest = flat("passk", (1, 1, *[0] * 6), k=4)
    assert [first, second, *rest] == NEAR([0.522231695] * 2 + [-0.174077232] * 6, abs=1e-9)
    assert flat("passk", (1, 1, 0, 0), k=1) == NEAR([0.5 / 0.500001] * 2 + [-0.5 / 0.500001] * 2)


@pytest.mark.parametrize(
    ("rewards", "k"), [((1, 1, 1, 0), 2), ((0, 0, 0, 0), 2), ((1, 1), 2), ((1, 0), 3), ((1, 0, 0), 3)]
)
def test_passk_is_exactly_zero_where_it_is_certain(rewards: tuple[int, ...], k: int) -> None:
    assert flat("passk", rewards, k=k) == [0.0] * len(rewards)


def test_the_margin_of_the_best_sample() -> None:
    std = math.sqrt(((1 - 0.425) ** 2 + (0.5 - 0.425) ** 2 + 0.425**2 + (0.2 - 0.425) ** 2) / 3)
    assert flat("passk", (0.5, 1, 0, 0.2), form="best") == NEAR([0, 0.5 / (std + 1e-6), 0, 0])
    assert flat("passk", (1, 1, 0), form="best") == [0.0] * 3
    with pytest.raises(ConfigError, match="single sample"):
        flat("passk", (1,), form="best")


@pytest.mark.parametrize(
    ("ratio", "positive", "negative"),
    [(0.5, 1.120422268, 0.339785229), (1.0, 1.0, 1.0), (1.5, 0.502042860, 1.241593115)],
)
def test_vespo_golden(ratio: float, positive: float, negative: float) -> None:
    rows = [with_ratio(1.0, ratio, 2), with_ratio(0.0, ratio, 2)]
    unit = 0.5 / (math.sqrt(0.5) + 1e-6) / 4
    assert weights("vespo", rows) == [NEAR([unit * positive] * 2, rel=1e-8), NEAR([-unit * negative] * 2, rel=1e-8)]


def test_vespo_clamps_log_ratios() -> None:
    """Each to 20, and their sum: the first token alone would be 40, and 20 - 19 is 1 after the clamp."""
    rows = [row(0.0, SAME), row(1.0, (math.exp(-1), math.exp(-41)), (math.exp(-20), math.exp(-1)))]
    expected = math.exp(3 + 2 * 1 - 3 * math.e) * 0.5 / (math.sqrt(0.5) + 1e-6) / 3
    assert weights("vespo", rows)[1] == NEAR([expected] * 2)


def test_luspo_is_gspo_times_the_length_with_inclusive_bounds() -> None:
    rows = [with_ratio(1.0, 1.002**3, 3), with_ratio(0.0, 0.999**2, 2)]
    longer, shorter = weights("luspo", rows)
    of_gspo = weights("gspo", rows, epsilon=2e-3, epsilon_high=2.5e-3)
    assert (longer, shorter) == (NEAR([3 * of_gspo[0][0]] * 3), NEAR([2 * of_gspo[1][0]] * 2))
    beyond = weights("luspo", [with_ratio(1.0, 1.0026**3, 3), with_ratio(0.0, 0.9979**2, 2)])
    assert beyond == [[0.0] * 3, [0.0] * 2]
    on_policy = [row(1.0, SAME), row(0.0, SAME)]
    assert weights("luspo", on_policy, epsilon=0.0, epsilon_high=0.0)[0][0] > 0  # a ratio of exactly 1 counts


def test_opo_weighs_the_baseline_by_length() -> None:
    rows = [row(reward, *[SAME] * num) for reward, num in ((1, 2), (0, 4), (0, 4))]
    assert weights("opo", rows) == [NEAR([0.8 / 10] * 2), NEAR([-0.2 / 10] * 4), NEAR([-0.2 / 10] * 4)]
    assert flat("opo", (1, 1)) == [0.0, 0.0] and flat("opo", (1,)) == [1.0]


def test_reinforce_pp_whitens_over_tokens() -> None:
    rows = [row(1.0, SAME, SAME), row(0.0, SAME), row(0.0, SAME, problem="q")]
    assert weights("reinforce_pp", rows) == [NEAR([0.25] * 2), NEAR([-0.25]), NEAR([-0.25])]
    values = [0.5, 0.5, -0.5, 0.0]  # a group of one keeps its reward
    mean = sum(values) / 4
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / 4)
    expected = [(value - mean) / std / 4 for value in values]
    first, second, third = weights("reinforce_pp", rows, baseline=True)
    assert [*first, *second, *third] == NEAR(expected)


def test_dro_golden() -> None:
    rows = [row(1.0, (0.30, 0.25)), row(0.0, SAME)]
    advantage = 0.5 / (math.sqrt(0.5) + 1e-6)
    assert weights("dro", rows)[0] == [NEAR((advantage - 0.5 + 0.481767844) / 2, rel=1e-8)]


def test_real_golden() -> None:
    rows = [
        row(1.0, (0.5 * math.exp(0.2), 0.5)),
        row(0.0, (0.5 * math.exp(0.1), 0.5)),
        row(0.0, (math.exp(-0.8), math.exp(-0.5))),
    ]
    assert weights("real", rows) == [[NEAR(0.802624680)], [NEAR(-0.881810997)], [NEAR(-0.396223222)]]
    one_sided = [row(0.0, SAME, problem="failed"), row(0.0, SAME, problem="failed")]
    assert weights("real", [*rows, *one_sided])[0] == [NEAR(0.802624680 / 2)]  # skipped, and counted
    assert weights("real", one_sided) == [[0.0], [0.0]]


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("dppo", {"ratio_cap": 0.5}, "ratio_cap"),
        ("dppo", {"epsilon": -0.1}, "at least 0"),
        ("maxrl", {"dual_clip": 0.9}, "dual clip"),
        ("nsr", {"positive_weight": -0.1}, "at least 0"),
        ("passk", {"k": 9}, "num_generations"),
        ("passk", {"k": 0}, "k must"),
        ("vespo", {"k_pos": -1.0}, "k and lambda"),
        ("dro", {"beta": -1.0}, "beta"),
        ("real", {"tau": 0.0}, "tau"),
        ("nsr", {"kl_coef": 0.1, "kl_in_reward": True}, "does not read"),
        ("passk", {"overlong_factor": 0.1}, "overlong_factor"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        methods.build(name, options)
