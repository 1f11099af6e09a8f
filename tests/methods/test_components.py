"""Components that any method may have: each equals its literal form, and what cannot act is refused with the reason."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
import torch
from exam.batches import Numbers, groups, numbers, ours
from parts.test_golden import inputs

from obverse import methods
from obverse.errors import ConfigError
from obverse.estimator.formula import Term, coefficient
from obverse.estimator.method import Method
from obverse.estimator.parts import Always, Behavior, Corrected, PerToken
from obverse.estimator.parts.mismatch import Correction
from obverse.estimator.schedule import TrainingSchedule, as_schedule
from obverse.estimator.tables import Tokens
from obverse.methods._components import compose
from obverse.types import Source

CORRECTIONS: tuple[Correction, ...] = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")


def built(name: str, **options: object) -> Method:
    made = methods.build(name, options)
    assert isinstance(made, Method)
    return made


def data_of(method: Method, seed: int = 3) -> Numbers:
    data = numbers(groups(seed), method, seed)
    assert data is not None
    return data


def slope(method: Method, seed: int = 3) -> torch.Tensor:
    """The gradient of a method's loss by the log-probs."""
    return ours(data_of(method, seed), method)[0]


@pytest.mark.parametrize("name", methods.names())
def test_components_are_off_by_default(name: str) -> None:
    plain = getattr(importlib.import_module(f"obverse.methods.{name}"), name)()
    assert methods.build(name) == plain
    for method in as_schedule(plain).methods:
        assert compose(method) == method


@pytest.mark.parametrize("name", methods.names())
def test_every_method_has_the_options_once(name: str) -> None:
    found = list(methods.parameters(methods.find(name)))
    assert set(methods.COMPONENTS) == {
        "kl_coef", "kl_estimator", "kl_in_reward", "entropy_coef", "importance_sampling", "importance_sampling_cap",
        "overlong_factor", "overlong_cache_length", "max_completion_length", "top_entropy_quantile",
    }  # fmt: skip
    assert set(methods.COMPONENTS) <= set(found) and len(found) == len(set(found))


@pytest.mark.parametrize("name", ["dr_grpo", "gspo", "luffy", "uft"])
@pytest.mark.parametrize(
    ("estimator", "kl"),
    [("k2", lambda gap: gap**2 / 2), ("k3", lambda gap: torch.exp(-gap) + gap - 1)],
    ids=["k2", "k3"],
)
def test_a_kl_in_the_loss_is_the_gradient_of_its_estimate(
    name: str, estimator: str, kl: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    method = built(name, kl_coef=0.3, kl_estimator=estimator)
    data = data_of(method)
    own = data.mask(Source.ROLLOUT)
    penalty = 0.3 * kl(data.logp - data.tokens.anchor)[own].mean()
    (expected,) = torch.autograd.grad(penalty, data.logp)
    torch.testing.assert_close(slope(method) - slope(built(name)), expected, rtol=1e-9, atol=1e-15)
    assert expected[own].abs().min() > 0
    assert method.needs("anchor")


def test_k3_is_what_a_kl_in_the_loss_is_by_default() -> None:
    assert built("dr_grpo", kl_coef=0.3) == built("dr_grpo", kl_coef=0.3, kl_estimator="k3")


def test_k1_in_the_loss_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"k2 or k3, or kl_in_reward"):
        built("dr_grpo", kl_coef=0.1, kl_estimator="k1")
    assert built("dr_grpo", kl_coef=0.0, kl_estimator="k1") == built("dr_grpo")


def literal_reward(data: Numbers, row: int, kl: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """What the verifier gave minus 0.3 times the sum of the estimates over the sample's own tokens."""
    mine = (data.tokens.sample == row) & data.mask(Source.ROLLOUT)
    gap = (data.tokens.behavior - data.tokens.anchor)[mine]
    return data.update.rows[row].reward - 0.3 * float(kl(gap).sum())


@pytest.mark.parametrize("name", ["dr_grpo", "uft"])
@pytest.mark.parametrize(
    ("estimator", "kl"),
    [
        (None, lambda gap: gap),
        ("k1", lambda gap: gap),
        ("k2", lambda gap: gap**2 / 2),
        ("k3", lambda gap: torch.exp(-gap) + gap - 1),
    ],
)
def test_a_kl_in_the_reward_is_taken_off_every_sample(
    name: str, estimator: str | None, kl: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    data = data_of(built(name, kl_coef=0.3, kl_estimator=estimator, kl_in_reward=True))
    expected = [literal_reward(data, row, kl) for row in range(len(data.samples))]
    assert data.samples.reward.tolist() == pytest.approx(expected, rel=1e-12)
    assert data.tokens.reward[data.mask(Source.ROLLOUT)].abs().min() > 0
    assert data.samples.correct.tolist() == [sample.correct for sample in data.update.rows]


@pytest.mark.parametrize("name", ["dr_grpo", "hpt", "rloo"])
@pytest.mark.parametrize("cache", [None, 4])
def test_a_soft_length_limit_is_taken_off_every_own_sample(name: str, cache: int | None) -> None:
    plain = data_of(built(name)).samples
    lengths = plain.counts[:, int(Source.ROLLOUT)]
    longest = int(lengths.max())
    options = {"overlong_factor": 0.5, "overlong_cache_length": cache, "max_completion_length": longest}
    found = data_of(built(name, **options)).samples.reward
    room = max(1, longest // 5) if cache is None else cache
    expected = [0.5 * min(0.0, (longest - room - int(n)) / room) for n in lengths]
    assert (found - plain.reward).tolist() == pytest.approx(expected) and min(expected) == -0.5


def test_a_shaped_reward_is_what_the_advantage_reads() -> None:
    method = built("dr_grpo", kl_coef=0.3, kl_in_reward=True)
    data = data_of(method)
    total = torch.zeros((), dtype=torch.float64)
    rows = data.rows(Source.ROLLOUT)
    for row, mask in rows:
        rewards = [literal_reward(data, i, lambda gap: gap) for i in data.members(row)]
        advantage = literal_reward(data, row, lambda gap: gap) - sum(rewards) / len(rewards)
        ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
        total = total - torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).sum() / 3000 / len(rows)
    (expected,) = torch.autograd.grad(total, data.logp)
    torch.testing.assert_close(slope(method), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("name", "sources"), [("dr_grpo", (Source.ROLLOUT,)), ("sft", (Source.DEMONSTRATION,))])
def test_an_entropy_bonus_is_a_mean_over_tokens(name: str, sources: tuple[Source, ...]) -> None:
    method = built(name, entropy_coef=0.05)
    data = data_of(method)
    mine = torch.stack([data.mask(source) for source in sources]).any(0)
    (expected,) = torch.autograd.grad(-0.05 * data.entropy[mine].mean(), data.entropy)
    torch.testing.assert_close(ours(data, method)[1], expected, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(slope(method), slope(built(name)), rtol=0.0, atol=0.0)


def test_a_hybrid_gets_the_bonus_on_its_own_tokens() -> None:
    (bonus,) = (term for term in built("chord", entropy_coef=0.1).terms if term.on == "entropy")
    assert (bonus.source, bonus.normalizer) == (Source.ROLLOUT, PerToken((Source.ROLLOUT,)))


def mismatch(data: Numbers, mode: Correction, cap: float) -> torch.Tensor:
    """u of every token, written as loops."""
    factors = torch.ones_like(data.logp.detach())
    for row, mask in data.rows(Source.ROLLOUT):
        assert row >= 0
        gap = (data.tokens.behavior - data.tokens.sampler)[mask]
        u = torch.exp(gap.sum().expand(len(gap)) if mode.startswith("sequence") else gap)
        kept = torch.where(u > cap, torch.zeros_like(u), u)
        factors[mask] = torch.where(u > cap, cap, u) if mode.endswith("truncate") else kept
    return factors


@pytest.mark.parametrize("name", ["dr_grpo", "hpt"])
@pytest.mark.parametrize("mode", CORRECTIONS)
@pytest.mark.parametrize("cap", [1.05, 2.0])
def test_a_mismatch_correction_multiplies_own_tokens(name: str, mode: Correction, cap: float) -> None:
    method = built(name, importance_sampling=mode, importance_sampling_cap=cap)
    factors = mismatch(data_of(method), mode, cap)
    torch.testing.assert_close(slope(method), slope(built(name)) * factors, rtol=1e-9, atol=1e-15)
    assert method.needs("sampler", Source.ROLLOUT) and not method.needs("sampler", Source.DEMONSTRATION)
    assert (factors == (0.0 if mode.endswith("mask") else cap)).any() and (factors < 1).any()


def test_a_kl_is_not_corrected() -> None:
    method = built("grpo", importance_sampling="token_truncate", kl_coef=0.1)
    gates = [(str(term.advantage), type(term.mask)) for term in method.terms]
    # neither the method's own KL nor the component's
    assert gates == [("standardized(eps=1e-06)", Corrected), ("towards_anchor", Always), ("towards_anchor", Always)]


@pytest.mark.parametrize(
    ("mode", "cap", "expected"),
    [
        ("token_truncate", 2.0, 1.2),
        ("token_truncate", 3.0, 1.5),
        ("token_mask", 2.0, 0.0),
        ("token_mask", 3.0, 1.5),
        ("sequence_truncate", 2.0, 1.2),
        ("sequence_mask", 2.0, 0.0),
    ],
)
def test_golden_truncation(mode: Correction, cap: float, expected: float) -> None:
    """pi_old 0.25 over mu 0.10 is 2.5; ratio 1.2, A = 1 / 2."""
    at = inputs((1.0,))
    tokens = Tokens(**{**vars(at.tokens), "sampler": torch.full_like(at.tokens.behavior, 0.10).log()})
    term = Term(Source.ROLLOUT, reference=Behavior(), mask=Corrected(Always(), mode, cap), normalizer=PerToken())
    assert 0.5 * float(coefficient(at._replace(tokens=tokens), (term,))) == pytest.approx(expected)


def test_components_add_up() -> None:
    method = built("dr_grpo", kl_coef=0.1, entropy_coef=0.01, importance_sampling="token_mask")
    assert [term.on for term in method.terms] == ["logp", "logp", "entropy"]
    kl, plain = slope(built("dr_grpo", kl_coef=0.1)), slope(built("dr_grpo"))
    corrected = slope(built("dr_grpo", importance_sampling="token_mask"))
    torch.testing.assert_close(slope(method), corrected + kl - plain, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("sft", {"kl_coef": 0.1}, "kl_coef"),
        ("dpo", {"kl_coef": 0.1}, "kl_coef"),
        ("dft", {"importance_sampling": "token_mask"}, "importance_sampling"),
        ("reward_model", {"entropy_coef": 0.1}, "entropy_coef acts on a policy"),
        ("raft", {"kl_coef": 0.1, "kl_in_reward": True}, "put the KL in the loss"),
        ("grpo", {"kl_coef": -0.1}, "must not be negative"),
        ("grpo", {"importance_sampling_cap": 0.0}, "above 0"),
        ("relift", {"kl_coef": 0.1, "kl_estimator": "k1"}, "k1 in the loss"),
    ],
)
def test_what_cannot_act_is_refused(name: str, options: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        methods.build(name, options)


def test_a_methods_own_option_wins() -> None:
    own = methods.parameters(methods.find("hpt"))["entropy_coef"]
    assert own.default == 0.001 and own.kind is own.POSITIONAL_OR_KEYWORD
    bonus = [term for term in built("hpt", entropy_coef=0.7).terms if term.on == "entropy"]
    assert [(term.source, term.weight) for term in bonus] == [(Source.ROLLOUT, 0.7), (Source.DEMONSTRATION, 0.7)]
    assert methods.parameters(methods.find("dr_grpo"))["entropy_coef"].default == 0.0


def test_a_course_gives_components_to_lanes_with_own_samples() -> None:
    schedule, plain = methods.build("alternate", {"kl_coef": 0.1, "kl_estimator": "k2"}), methods.build("alternate")
    assert isinstance(schedule, TrainingSchedule) and isinstance(plain, TrainingSchedule)
    assert schedule.methods[0] == built("grpo", beta=0.0, kl_coef=0.1, kl_estimator="k2")
    assert schedule.methods[1] == plain.methods[1]
    assert (schedule.selector, schedule.run) == (plain.selector, plain.run)
