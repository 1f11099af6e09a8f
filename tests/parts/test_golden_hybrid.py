"""Golden numbers of the hybrids: shapings, entropy weights, hint plans, and how hints and their continuations count."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from obverse import methods
from obverse.errors import ConfigError
from obverse.estimator.formula import Term, coefficient
from obverse.estimator.method import Method
from obverse.estimator.parts import (
    Accepted,
    AgainstUnhinted,
    Behavior,
    BinomialHint,
    ByCount,
    Confident,
    ConstantOfAll,
    DoubleClip,
    Everything,
    Logarithm,
    LogarithmToo,
    OneHinted,
    Part,
    PerToken,
    Power,
    Saturating,
    Signed,
    SolvedGate,
    StagedHint,
    TornHint,
    UniformHint,
    Unit,
)
from obverse.estimator.parts.hints import annealed
from obverse.estimator.parts.imitation import log_anchor_ratio
from obverse.estimator.tables import PartInputs, PolicyOutputs, Samples, Tokens
from obverse.types import Problem, Source

FIVE = Problem("five", "x", "y", tuple("abcde"))


class Fixed(Part):
    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, inputs: PartInputs) -> torch.Tensor:
        return torch.full_like(inputs.policy.logp, self.value)


def inputs(layout: list[str], rewards: list[float], entropy: list[float] | None = None, p: float = 0.30) -> PartInputs:
    """One group; a sample is a word of h (hint), d (demonstration) and r (rollout); pi_old is 0.25."""
    kinds = {"h": Source.HINT, "d": Source.DEMONSTRATION, "r": Source.ROLLOUT}
    sample = torch.tensor([i for i, word in enumerate(layout) for _ in word])
    source = torch.tensor([int(kinds[letter]) for word in layout for letter in word])
    counts = torch.zeros(len(layout), len(Source), dtype=torch.long)
    counts.index_put_((sample, source), torch.ones(()).long(), accumulate=True)
    column = lambda value: torch.full((len(sample),), value, dtype=torch.float64)  # noqa: E731
    reward = torch.tensor(rewards, dtype=torch.float64)
    tokens = Tokens(sample, source, sample * 0, column(0.25).log(), column(0.20).log(), column(0.0))
    samples = Samples(reward, reward >= 1, torch.zeros(len(layout), dtype=torch.long), reward < 0, counts)
    known = column(0.7) if entropy is None else torch.tensor(entropy, dtype=torch.float64)
    return PartInputs(tokens, samples, PolicyOutputs(column(p).log(), known))


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (Saturating(0.1), 0.164062),
        (Saturating(0.5), 0.875 * 0.5 * 0.3 / 0.64),
        (Unit(), 0.2625),
        (Power(0.5), 0.5 * 0.875 * math.sqrt(0.3)),
        (Power(0.3), 0.3 * 0.875 * 0.3**0.3),
        (Logarithm(2.0), 1.75),
        (LogarithmToo(2.0), 0.875 * 2.3),
    ],
)
def test_a_shaping_is_the_derivative_of_its_objective(reference: Part, expected: float) -> None:
    term = Term(Source.DEMONSTRATION, Fixed(0.875), reference, normalizer=PerToken())
    assert float(coefficient(inputs(["d"], [1.0]), (term,))) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("p", "expected"), [(0.01, 0.083), (0.05, 0.222), (0.1, 0.25), (0.9, 0.09), (1.0, 0.083)])
def test_the_saturating_shape_is_highest_at_gamma(p: float, expected: float) -> None:
    term = Term(Source.DEMONSTRATION, reference=Saturating(0.1), normalizer=PerToken())
    assert float(coefficient(inputs(["d"], [1.0], p=p), (term,))) == pytest.approx(expected, abs=1e-3)


def test_the_ratio_and_the_distance_to_the_anchor() -> None:
    at = inputs(["r"], [1.0])
    assert float(
        coefficient(at, (Term(Source.ROLLOUT, reference=Behavior(), normalizer=PerToken()),))
    ) == pytest.approx(1.2)
    assert float(log_anchor_ratio(at)) == pytest.approx(0.405465, abs=1e-6)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
def test_a_token_is_accepted_as_often_as_it_is_likely(p: float) -> None:
    num, ones = 200, torch.ones(400, dtype=torch.float64)
    at = inputs(["dd"] * num, [1.0] * num, p=p)
    draws = torch.rand(num, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    position = torch.arange(2).repeat(num)
    at = at._replace(samples=replace(at.samples, uniform=draws), tokens=replace(at.tokens, position=position))
    steps = [Accepted()(at._replace(progress=step / 10), ones, ones) for step in range(10)]
    assert all(set(kept.tolist()) <= {0.0, 1.0} for kept in steps)
    assert torch.stack(steps).mean() == pytest.approx(p, abs=0.02)
    assert (steps[0] == Accepted()(at, ones, ones)).all()
    # another chance at every step, and for every token of a sample
    assert (steps[0] != steps[1]).any() and (steps[0][::2] != steps[0][1::2]).any()


@pytest.mark.parametrize(("rewards", "expected"), [((0, 0, 0), 10.0), ((1, 0, 0), 10.0), ((1, 1, 0), 20.0)])
def test_a_soft_gate_counts_the_right_ones_the_demonstration_too(rewards: tuple[int, ...], expected: float) -> None:
    at = inputs(["d", "rr", "r"], [float(reward) for reward in rewards])
    assert ByCount(Fixed(0.5), (10.0, 20.0, 30.0))(at).tolist() == [expected / 2] * 4
    full = inputs(["d", "r", "r", "r"], [1.0] * 4)
    assert ByCount(Fixed(1.0), (10.0, 20.0, 30.0))(full).tolist() == [30.0] * 4
    assert ByCount(AgainstUnhinted(), (1.0,)).needs == AgainstUnhinted().needs | {"correct"}


def hpt(**options: object) -> Method:
    made = methods.build("hpt", options)
    assert isinstance(made, Method)
    return made


def test_what_is_done_with_failed_problems() -> None:
    # a lone right demonstration: A = 1, gamma p / (p + gamma)^2 at p = 0.3, over L = 10 and one sample
    at = inputs(["d"], [1.0])
    for failed, expected in (("sft", 1.0), ("off_policy", 0.01875), ("mixed", 1.01875)):
        method = hpt(failed=failed, max_completion_length=10)
        assert float(coefficient(at, method.terms)) == pytest.approx(expected)
        assert method.keep == SolvedGate(0)
    assert float(coefficient(inputs(["d"], [0.0]), hpt(failed="off_policy").terms)) == 0.0


def test_a_soft_gate_keeps_the_whole_group() -> None:
    soft = hpt(gate_type="soft")
    assert soft.keep == Everything()
    # one right of three: imitation by half where two are right, the rest of the group by an eighth
    at = inputs(["d", "r", "r"], [1.0, 1.0, 0.0], p=0.25)
    found = coefficient(at, hpt(gate_type="soft", soft_type="never", max_completion_length=10).terms).tolist()
    assert found == pytest.approx([0.5, 0.125 / 3 / 30, -0.125 * 2 / 3 / 30])


@pytest.mark.parametrize("options", [{"gate": 1}, {"failed": "off_policy"}, {"failed": "mixed"}])
def test_a_soft_gate_has_no_switch(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="gate_type='switch'"):
        hpt(gate_type="soft", **options)


def test_bad_shapings_are_refused() -> None:
    for option in ("gamma", "exponent", "shaping_scale"):
        with pytest.raises(ConfigError, match="above 0"):
            methods.build("luffy", {option: 0.0})


def test_entropy_weights() -> None:
    both = (
        Term(Source.DEMONSTRATION, Confident(), normalizer=PerToken()),
        Term(Source.DEMONSTRATION, Fixed(0.875), Unit(), normalizer=PerToken()),
    )
    assert float(coefficient(inputs(["d"], [1.0]), both)) == pytest.approx(0.510793, abs=1e-6)
    assert Signed()(inputs(["r", "r"], [1.0, 0.0])).tolist() == pytest.approx([0.201375, -1.0], abs=1e-6)
    uneven = inputs(["rr", "dd"], [1.0, 1.0], [0.2, 1.2, 0.4, 1.0])
    assert Signed()(uneven).tolist()[:2] == pytest.approx([0.201375] * 2, abs=1e-6)
    assert Signed(level="token")(uneven).tolist()[:2] == pytest.approx([0.1 * math.exp(0.2), 0.1 * math.exp(1.2)])
    assert Confident()(uneven).tolist()[2:] == pytest.approx([0.5 * math.exp(-0.7)] * 2)


def test_annealing() -> None:
    # the paper's t + 1 of 500 steps, 300 of them with hints
    assert annealed(1 / 500, 0.95, 0.05, 0.6) == pytest.approx(0.949975, abs=1e-6)
    assert annealed(150 / 500, 0.95, 0.05, 0.6) == pytest.approx(0.5)
    assert annealed(250 / 500, 0.95, 0.05) == pytest.approx(0.5)
    assert (annealed(0.0, 0.95, 0.05), annealed(0.9, 0.95, 0.05, 0.6)) == pytest.approx((0.95, 0.05))


def many(plan: BinomialHint | UniformHint | OneHinted, progress: float, num: int = 2000) -> list[float]:
    """The hints of many problems."""
    return [plan(replace(FIVE, id=f"p{i}"), progress)[-1].hint for i in range(num)]


def test_binomial_hints_follow_the_cosine_and_end() -> None:
    for progress in (0.0, 0.15, 0.3, 0.5):
        hints = many(BinomialHint(4), progress)
        assert sum(hints) / len(hints) == pytest.approx(annealed(progress, 0.95, 0.05, 0.6), abs=0.03)
        assert {round(hint * 5, 9) for hint in hints} <= set(range(6))
    assert set(many(BinomialHint(4), 0.6)) == {0.0}


def test_uniform_hints_never_end() -> None:
    for progress in (0.0, 1.0):
        hints = many(UniformHint(4), progress)
        assert all(hints.count(k / 5) / len(hints) == pytest.approx(1 / 6, abs=0.04) for k in range(6))


def test_staged_hints_lose_a_chunk_at_a_time() -> None:
    given = [StagedHint(4)(FIVE, step / 500)[0].hint * 5 for step in range(500)]
    assert given == pytest.approx([min(max(5 - step // 50, 0), 5) for step in range(500)])
    assert StagedHint(4)(replace(FIVE, demonstration=("a", "b")), 0.25)[0].hint == 0.5


def test_one_sample_has_a_prefix() -> None:
    own, hinted = OneHinted(8)(FIVE, 0.5)
    assert (own.rollouts, own.hint, hinted.rollouts, hinted.hint_in) == (7, 0.0, 1, "tokens")
    for progress, low in ((0.0, 0.95), (0.5, 0.5), (1.0, 0.05)):
        hints = many(OneHinted(8), progress)
        assert min(hints) == pytest.approx(low, abs=0.01) and max(hints) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("plan", [BinomialHint, UniformHint, OneHinted])
def test_hints_depend_on_seed_problem_and_progress_alone(plan: type) -> None:
    assert many(plan(4, seed=1), 0.2) == many(plan(4, seed=1), 0.2)
    assert many(plan(4, seed=1), 0.2) != many(plan(4, seed=2), 0.2)
    assert many(plan(4, seed=1), 0.2) != many(plan(4, seed=1), 0.21)
    assert len(set(many(plan(4, seed=1), 0.2))) > 1


@pytest.mark.parametrize("plan", [BinomialHint(4), UniformHint(4), StagedHint(4), OneHinted(4)])
def test_a_problem_without_a_demonstration_is_asked_the_same(plan: BinomialHint) -> None:
    assert plan(replace(FIVE, demonstration=()), 0.1) == plan(FIVE, 0.1)


def test_a_hint_is_measured_by_the_samples_without_one() -> None:
    at = inputs(["r", "rr", "r", "hr", "hhr"], [1.0, 0.0, 0.0, 1.0, 0.0])
    mean = 1 / 3
    own, other = [1 - mean, -mean, -mean, -mean], [1 - mean] * 2 + [-mean] * 3
    assert AgainstUnhinted()(at).tolist() == pytest.approx(own + other)
    assert AgainstUnhinted(alone=True)(at).tolist() == pytest.approx([*own, 1 - mean, 1.0, -mean, -mean, 0.0])
    assert AgainstUnhinted()(inputs(["hr"], [1.0])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("num", "kept"), [(1, 1), (5, 1), (6, 2), (10, 2), (11, 3), (16, 4), (36, 8)])
def test_the_torn_part_of_a_hint(num: int, kept: int) -> None:
    entropy = torch.randperm(num, generator=torch.Generator().manual_seed(num)).double()
    at = inputs(["h" * num + "r"], [1.0], [*entropy.tolist(), 99.0])
    gate = TornHint()(at, torch.ones(num + 1), torch.ones(num + 1))
    assert gate[:num].tolist() == (entropy >= torch.quantile(entropy, 0.8)).double().tolist()
    assert gate[:num].sum() == kept and gate[num] == 0


def test_double_clip() -> None:
    ratio = torch.tensor([0.5, 1.0, 1.5, 2.9, 3.1, 0.7, 1.1, 1.3])
    advantage = torch.tensor([-0.5] * 5 + [0.5] * 3)
    assert DoubleClip()(inputs(["r"], [1.0]), ratio, advantage).tolist() == [0, 1, 1, 1, 0, 1, 1, 0]


def test_one_denominator_for_all_kinds() -> None:
    at = inputs(["rr", "r", "dd", "hr"], [1.0] * 4)
    for source in Source:
        assert ConstantOfAll(10)(at, source).tolist() == pytest.approx([1 / 40] * 7)


@pytest.mark.parametrize(("probability", "weight"), [(0.3, 1.0), (0.05, 0.5)])
def test_tokens_below_the_trusted_probability_count_in_proportion(probability: float, weight: float) -> None:
    method = methods.build("trsft", {"max_completion_length": 1})
    assert isinstance(method, Method)
    data = inputs(["d"], [1.0], p=probability)
    assert coefficient(data, method.terms).tolist() == pytest.approx([weight])


def test_a_hint_of_two_samples_counts_as_one_and_the_demonstration_is_in_the_baseline() -> None:
    method = methods.build("trapo", {"max_completion_length": 1, "entropy_coef": 0.0})
    data = inputs(["r", "hr", "hr", "hhr", "d"], [0.0, 1.0, 0.0, 0.0, 1.0], p=0.25)  # pi_old is 0.25 as well
    assert isinstance(method, Method)
    total = coefficient(data, method.terms)
    own = [reward - 0.4 for reward in (0.0, 1.0, 0.0, 0.0)]
    expected = [own[0], 0.5, own[1], 0.5, own[2], 1.0, 1.0, own[3], 1.0]
    assert (5 * total).tolist() == pytest.approx(expected)
