"""Golden numbers of the teacher family: p = 0.30, pi_old = 0.25, pi_T = 0.40, and three tokens with three answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from obverse import methods
from obverse.analysis.step_coefficients import weigh
from obverse.errors import ConfigError, DataError
from obverse.estimator import Method, Taught, Teacher
from obverse.estimator.parts import OwnOrDemonstrated, RiseAndFall
from obverse.estimator.requests import max_samples_per_problem, samples_policy, wants
from obverse.types import GradeResult, Group, ModelInput, Problem, Sample, Source

ONE = ((0.30, 0.25, 0.40),)
THREE = ((0.30, 0.25, 0.40), (0.50, 0.50, 0.10), (0.20, 0.40, 0.30))
NEAR = pytest.approx


def row(tokens: tuple[tuple[float, float, float], ...], reward: float = 1.0, problem: str = "p") -> dict[str, Any]:
    """A rollout of a step file; each token has its probability under the policy, the sampler and the teacher."""
    columns = zip(("logp", "behavior", "teacher"), zip(*tokens, strict=True), strict=True)
    logs = {name: [math.log(value) for value in values] for name, values in columns}
    return {"problem": problem, "kind": "rollout", "reward": reward, "source": ["rollout"] * len(tokens), **logs}


def weights(name: str, rows: list[dict[str, Any]], options: Mapping[str, Any] | None = None) -> list[list[float]]:
    samples = weigh(name, {"samples": rows}, options)["samples"]
    return [sample["coefficient"] for sample in samples]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("opd", {}, 0.564004355),
        ("opd", {"kl_coef": 0.5}, 0.564004355 / 2),
        ("opd", {"baseline": "policy"}, 0.345218487),
        ("opd", {"baseline": "policy", "max_probability_drop": 0.2, "behavior_kl_coef": 0.002}, 0.344853844),
        ("sdft", {}, 0.345218487),
        ("sdft", {"distillation_is_clip": None}, 0.287682072),
        ("opsd", {}, 0.287682072),
    ],
)
def test_one_token(name: str, options: dict[str, Any], expected: float) -> None:
    assert weights(name, [row(ONE)], options) == [[NEAR(expected, rel=1e-8)]]


def test_opd_adds_the_standardized_reward_and_counts_tokens() -> None:
    rows = [row(THREE, 1.0), row(ONE, 0.0), row(ONE, 0.0)]
    score = (1 - 1 / 3) / (math.sqrt(((2 / 3) ** 2 + 2 * (1 / 3) ** 2) / 2) + 1e-6)
    expected = [p / mu * (2 * math.log(teacher / mu) + 0.5 * score) / 5 for p, mu, teacher in THREE]
    assert weights("opd", rows, {"kl_coef": 2.0, "reward_coef": 0.5})[0] == NEAR(expected, rel=1e-9)


def test_opd_masks() -> None:
    fallen = ((0.10, 0.35, 0.90),)
    assert weights("opd", [row(fallen)]) == [[NEAR(0.1 / 0.35 * math.log(0.9 / 0.35))]]
    assert weights("opd", [row(fallen)], {"max_probability_drop": 0.2}) == [[0.0]]
    assert weights("opd", [row(fallen)], {"epsilon": 0.2})[0][0] > 0  # A > 0: only a ratio above 1.2 is clipped
    risen = ((0.40, 0.25, 0.90),)
    assert weights("opd", [row(risen)], {"epsilon": 0.2}) == [[0.0]]
    assert weights("opd", [row(risen)], {"epsilon": 0.2, "epsilon_high": 0.7})[0][0] > 0


@pytest.mark.parametrize(
    ("reward", "expected"), [(1.0, (1.1, 0.9, 0.9)), (0.0, (-0.9, -1.1, -1.1))], ids=["right", "wrong"]
)
def test_rlsd_redistributes(reward: float, expected: tuple[float, ...]) -> None:
    tokens = tuple((mu, mu, teacher) for _, mu, teacher in THREE)
    rows = [row(tokens, reward), row(tokens, 1.0 - reward)]
    unit = 0.5 / (math.sqrt(0.5) + 1e-6) / 3 / 2  # A_i of one right answer of two, / n_i / B
    assert weights("rlsd", rows)[0] == NEAR([unit * factor for factor in expected])


def test_sdar_gates_and_iw_opd_weighs_by_the_prefix() -> None:
    gates = weights("sdar", [row(THREE)], {"coef": 0.5})[0]
    assert gates == NEAR([0.5 * gate / 3 for gate in (0.808208366, 0.000319898, 0.883636364)], rel=1e-5)
    prefixes = weights("iw_opd", [row(THREE)])[0]
    assert prefixes == NEAR([value / 3 for value in (0.705005444, -2.254376100, -0.305163410)], rel=1e-8)


def test_sdpo_leaves_out_what_has_no_target() -> None:
    far = ((0.9, 0.1, 0.4),)  # a ratio of 9, capped at 2
    rows = [row(ONE, 1.0), row(ONE, 0.0), row(far, 0.0), row(ONE, 0.0, "failed"), row(ONE, 0.0, "failed")]
    expected = [[0.0], [NEAR(0.345218487 / 2)], [NEAR(2 * math.log(0.4 / 0.9) / 2)], [0.0], [0.0]]
    assert weights("sdpo", rows) == expected
    both = [row(ONE, 1.0), row(ONE, 0.7)]
    assert weights("sdpo", both) == [[NEAR(0.345218487 / 2)]] * 2
    assert weights("sdpo", both, {"success_reward_threshold": 1.0}) == [[0.0], [NEAR(0.345218487)]]


def test_the_error_of_a_verifier_is_no_feedback() -> None:
    sample = Sample("rollout", ModelInput((1,)), [2], [Source.ROLLOUT], [-1.0], "")  # "not graded"
    assert Teacher(sees="feedback").context(Group(Problem("p", "2+2"), [sample]), sample) is None


def test_feedback_is_read_where_no_sibling_is_right() -> None:
    grades = (GradeResult.passed(), GradeResult.failed("not 4"), GradeResult.failed(""))
    samples = [Sample("rollout", ModelInput((1,)), [2], [Source.ROLLOUT], [0.0], "", grade=grade) for grade in grades]
    method = methods.build("sdpo", {"include_environment_feedback": True})
    assert isinstance(method, Method) and isinstance(method.keep, Taught) and method.teacher is not None
    solved, failed = Group(Problem("p", ""), samples), Group(Problem("q", ""), samples[1:])
    kinds = [method.teacher.context(solved, sample) for sample in samples]
    assert [kind and kind.kind for kind in kinds] == [None, "sibling", "sibling"]
    assert method.select(solved) == samples[1:] and method.select(failed) == samples[1:2]


def test_wrong_samples_of_a_step_file_that_the_teacher_scored_had_feedback() -> None:
    scored = row(((0.5, 0.5, 0.5 * math.e),), reward=0.0)  # one nat likelier under the teacher
    assert weights("sdpo", [scored, scored]) == [[0.0], [0.0]]
    options = {"include_environment_feedback": True}
    assert weights("sdpo", [scored, scored], options) == [[NEAR(0.5)], [NEAR(0.5)]]
    assert weights("sdpo", [scored, scored | {"teacher": None}], options) == [[NEAR(1.0)], [0.0]]


def test_demonstrations_are_read_without_grades() -> None:
    samples = [Sample("rollout", ModelInput((1,)), [2], [Source.ROLLOUT], [0.0], "")]
    for name in ("sdft", "opsd"):
        method = methods.build(name)
        assert isinstance(method, Method) and not method.grades
        assert method.select(Group(Problem("p", "", demonstration=("d",)), samples)) == samples
        assert method.select(Group(Problem("p", ""), samples)) == []
    assert Taught(Teacher("policy", "sibling")).needs == {"reward", "correct"}


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("sdft", {"distillation_topk": 20}, "zero expected gradient"),
        ("sdpo", {"distillation_topk": 20, "distillation_mode": "sampled_token"}, "zero expected gradient"),
        ("opsd", {"distillation_topk": 20}, "zero expected gradient"),
        ("sdpo", {"distillation_add_tail": True}, "zero expected gradient"),
        ("sdpo", {"distillation_alpha": 0.5}, "reverse KL"),
        ("sdft", {"distillation_mode": "full_logits", "distillation_topk": 5}, "whole vocabulary"),
        ("opd", {"kl_coef": 0.0}, "kl_coef"),
        ("opd", {"epsilon": 0.2, "max_probability_drop": 0.2}, "one of them"),
        ("opd", {"epsilon_high": 0.2}, "epsilon too"),
        ("opd", {"kl_estimator": "k2"}, "kl_estimator"),
        ("opd", {"kl_in_reward": True, "reward_coef": 1.0}, "kl_in_reward"),
        ("sdpo", {"kl_coef": 0.1, "kl_in_reward": True}, "does not read"),
        ("sdpo", {"overlong_factor": 0.1}, "overlong_factor"),
        ("gkd", {"lmbda": 1.5}, "between 0 and 1"),
        ("gkd", {"beta": 1.5}, "between 0 and 1"),
        ("gift", {"beta": 0.0}, "beta"),
        ("rlsd", {"lam": 2.0}, "lam"),
        ("sdar", {"coef": 0.0}, "grpo"),
        ("iw_opd", {"gamma": -1.0}, "gamma"),
    ],
)
def test_what_has_no_effect_or_no_meaning_is_refused(name: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        methods.build(name, options)


def test_the_forms_over_the_vocabulary() -> None:
    built = {
        (name, mode): str(methods.build(name, {"distillation_mode": mode}).divergence)  # type: ignore[union-attr]
        for name in ("sdft", "opsd", "sdpo")
        for mode in ("full_logits", "topk_logits")
    }
    assert {built[name, "full_logits"] for name in ("sdft", "opsd", "sdpo")} == {
        "jensen_shannon(beta=0.5)[target=teacher]"
    }
    sizes = {"sdft": "100 of policy, no tail", "opsd": "50 of target, no tail", "sdpo": "100 of policy, tail"}
    assert all(size in built[name, "topk_logits"] for name, size in sizes.items())


def test_what_weighs_a_divergence_is_printed_beside_the_coefficients() -> None:
    shown = {**row(ONE), "kind": "demonstration", "source": ["demonstration"]}
    rows = [row(THREE), shown]
    results = [weigh(name, {"samples": rows})["samples"] for name in ("gkd", "asft", "opd")]
    assert [sample["divergence_coefficient"] for sample in results[0]] == [NEAR([0.25] * 3), NEAR([0.25])]
    assert results[1][1]["divergence_coefficient"] == [NEAR(0.1)] and results[1][1]["coefficient"] == [NEAR(0.3)]
    assert all("divergence_coefficient" not in sample for sample in results[2])


@pytest.mark.parametrize("name", ["opd", "sdft", "sdpo"])
def test_a_step_without_the_teachers_column_is_refused(name: str) -> None:
    rows = [{key: value for key, value in row(ONE, reward).items() if key != "teacher"} for reward in (1.0, 0.0)]
    with pytest.raises(DataError, match="teacher is missing"):
        weigh(name, {"samples": rows})


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_gkd_draws_rollouts_as_often_as_lmbda_says(share: float) -> None:
    ask = OwnOrDemonstrated(2, share, seed=3)
    problems = [Problem(f"p{number}", "", demonstration=("d",)) for number in range(200)]
    draws = [[ask(problem, step / 20)[0].rollouts > 0 for step in range(20)] for problem in problems]
    mean = sum(map(sum, draws)) / 4000
    assert abs(mean - share) <= 4 * math.sqrt(share * (1 - share) / 4000)
    assert draws == [[ask(problem, step / 20)[0].rollouts > 0 for step in range(20)] for problem in problems]
    if 0 < share < 1:  # each visit of a problem draws again, and so does another seed
        assert sum(0 < sum(row) < 20 for row in draws) > 180
        assert draws != [[replace(ask, seed=4)(p, step / 20)[0].rollouts > 0 for step in range(20)] for p in problems]
    assert ask(Problem("p", ""), 0.0)[0].rollouts == 2  # nothing to imitate


def test_a_rare_draw_is_still_expected_of_a_run() -> None:
    for share, kinds in ((0.001, (True, True)), (0.0, (False, True)), (1.0, (True, False))):
        method = methods.build("gkd", {"lmbda": share, "num_generations": 3})
        assert isinstance(method, Method)
        assert (samples_policy(method), wants(method, "demonstrations")) == kinds
        assert max_samples_per_problem(method) == (3 if kinds[0] else 1)


def test_the_share_of_rlsd_rises_and_falls() -> None:
    share = RiseAndFall(0.5, 0.2, 0.4)
    assert [share(at) for at in (0.0, 0.1, 0.2, 0.4, 0.6, 1.0)] == NEAR([0.0, 0.25, 0.5, 0.25, 0.0, 0.0])
    assert RiseAndFall(0.5)(1.0) == 0.5 and RiseAndFall(0.5, fall=0.5)(0.0) == 0.5
