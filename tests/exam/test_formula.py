"""The laws of the estimator, for every method of the folder: 1 to 5, 7 and 8."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from exam.batches import (
    Numbers,
    for_method,
    gradients,
    groups,
    learned,
    method_stages,
    numbers,
    ours,
    sample,
    stage,
    whole,
)

from obverse import methods
from obverse.estimator.formula import coefficient, has_zero_gradient, known_gradients, loss
from obverse.estimator.tables import PartInputs, PolicyOutputs
from obverse.types import Source

NAMES = method_stages()
SPREADS = (0.05, 0.4, 3.0)  # standard deviations of log-ratios
MIXED = ((1.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0), (0.0, 1.0, 0.0, 0.0))


def literals(name: str) -> list[tuple[dict[str, object], Callable[[Numbers], torch.Tensor]]]:
    """The cases of a method, or of one stage of a schedule; a case's third entry is the stage, 0 by default."""
    base, _, number = name.partition(":")
    case_list = [(*case, 0)[:3] for case in importlib.import_module(f"literal.{base}").CASES]
    return [(options, literal) for options, literal, stage_index in case_list if stage_index == int(number or 0)]


def cases() -> list[tuple[str, int]]:
    return [(name, i) for name in NAMES for i in range(max(1, len(literals(name))))]


def assert_law_1(name: str, case: int, seed: int, spread: float) -> None:
    options, literal = literals(name)[case]
    method = stage(name, options)
    data = numbers(groups(seed), method, seed, spread)
    assert data is not None
    expected, actual = gradients(literal(data), data), ours(data, method)
    assert max(gradient.abs().max() for gradient in expected) > 0
    for gradient, literal_gradient in zip(actual, expected, strict=True):
        torch.testing.assert_close(gradient, literal_gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "case"), cases())
def test_law_1_the_coefficient_is_the_gradient_of_the_papers_loss(name: str, case: int) -> None:
    for seed, spread in enumerate(SPREADS):
        assert_law_1(name, case, seed, spread)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case"), cases())
def test_law_1_over_many_seeds(name: str, case: int) -> None:
    for spread in SPREADS:
        for seed in range(5):
            assert_law_1(name, case, seed, spread)


def by_place(data: Numbers, values: torch.Tensor) -> dict[tuple[int, int], float]:
    places = zip(data.tokens.sample.tolist(), data.tokens.position.tolist(), strict=True)
    return dict(zip(places, values.tolist(), strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [1, 9, 20])
def test_law_2_any_split_gives_the_same_gradient(name: str, budget: int) -> None:
    method = stage(name)
    # several failed problems, for a stage that trains on nothing else
    data = numbers(groups(3, rewards=(*MIXED, *((0.0,) * 4,) * 3)), method)
    assert data is not None
    expected = [by_place(data, gradient) for gradient in ours(data, method)]
    leaves = [by_place(data, leaf) for leaf in (data.logp, data.entropy, data.value, data.divergence)]
    written = ("behavior", "anchor", "advantage", "sampler", "teacher", "value", "returns", "reward")
    columns = {column: by_place(data, getattr(data.tokens, column)) for column in written}
    detached = PolicyOutputs(data.logp.detach(), data.entropy.detach(), data.value.detach())
    update = PartInputs(data.tokens, data.samples, detached)  # what a first pass over all micro batches computes
    found: list[dict[tuple[int, int], float]] = [{}, {}, {}, {}]
    micros = list(data.update.micros(budget, method.needs_whole_groups))
    assert len(micros) > 1
    for micro in micros:
        places = list(zip(micro.tokens.sample.tolist(), micro.tokens.position.tolist(), strict=True))
        pick = lambda table, at=places: torch.tensor([table[place] for place in at], dtype=torch.float64)  # noqa: E731
        tokens = replace(micro.tokens, **{column: pick(table) for column, table in columns.items()})
        logp, entropy, value, divergence = outputs = [pick(leaf).requires_grad_() for leaf in leaves]
        outputs_of_update = update if method.reads_update else None
        total = loss(tokens, data.samples, logp, entropy, method.terms, 0.0, value, divergence, outputs_of_update)
        for slopes, table, leaf in zip(
            torch.autograd.grad(total, outputs, allow_unused=True), found, outputs, strict=True
        ):
            table |= dict(zip(places, (torch.zeros_like(leaf) if slopes is None else slopes).tolist(), strict=True))
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(abs(mine[place] - theirs[place]) < 1e-14 for place in theirs)


@pytest.mark.parametrize("name", NAMES)
def test_law_3_the_order_of_samples_does_not_matter(name: str) -> None:
    method = stage(name)
    data = numbers(groups(5), method)
    assert data is not None
    perm = torch.randperm(len(data.samples), generator=torch.Generator().manual_seed(0))
    place = torch.empty_like(perm).scatter_(0, perm, torch.arange(len(perm)))
    shuffled = type(data.samples)(**{name: column[perm] for name, column in vars(data.samples).items()})
    tokens = replace(data.tokens, sample=place[data.tokens.sample])
    inputs = PartInputs(
        data.tokens, data.samples, PolicyOutputs(data.logp.detach(), data.entropy.detach(), data.value.detach())
    )
    moved = inputs._replace(tokens=tokens, samples=shuffled)
    for on in method.streams:
        mine, theirs = (coefficient(each, method.terms, on) for each in (moved, inputs))
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_law_4_prompt_tokens_get_no_gradient(name: str) -> None:
    method = stage(name)
    update = learned(for_method(groups(7), method, 7), method)
    assert update is not None
    micro = whole(update)
    num_rows, length = micro.input_ids.shape
    logits = torch.randn(num_rows, length, 30, dtype=torch.float64, requires_grad=True)
    logp = logits.log_softmax(-1)[micro.row, micro.position].gather(-1, micro.target[:, None])[:, 0]
    nothing = torch.zeros_like(micro.tokens.behavior)
    tokens = replace(
        micro.tokens, advantage=nothing + 1, anchor=nothing, value=nothing, returns=nothing, teacher=nothing
    )
    entropy = torch.ones_like(logp)
    # a scalar head's value and a divergence depend on the state: any function of its log-probs is a valid stand-in
    loss(tokens, update.samples, logp, entropy, method.terms, value=logp * 2, divergence=logp * 3).backward()
    touched = logits.grad.abs().sum(-1) > 0
    trained = torch.zeros_like(touched)
    for i, row in enumerate(sorted(update.rows, key=lambda row: row.num_tokens)):
        # position p predicts token p + 1: the first response token is predicted from the prompt's last place
        trained[i, len(row.prompt) - 1 : len(row.prompt) + len(row.ids) - 1] = True
    assert touched.any()
    assert not (touched & ~trained).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_law_5_equal_rewards_give_zero_or_the_docstring_says_why_not(name: str, reward: float) -> None:
    method = stage(name)
    data = numbers(groups(1, rewards=((reward,) * 4, (reward,) * 4)), method)
    excused = "equal rewards" in (methods.find(name.partition(":")[0]).__doc__ or "").lower()
    if data is not None and max(gradient.abs().max() for gradient in ours(data, method)) > 0:
        assert excused, f"{name} trains on equal rewards and its docstring does not say why"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gap", [-200.0, -50.0, 50.0, 200.0])
def test_law_7_finite_at_extreme_log_ratios(name: str, gap: float) -> None:
    method = stage(name)
    data = numbers(groups(2), method)
    assert data is not None
    logp = torch.full_like(data.logp, -0.1 if gap > 0 else gap - 0.1).float()
    other = (logp - gap).clamp(max=0) if gap < 0 else logp - gap
    tokens = replace(data.tokens, behavior=other, anchor=other, teacher=other)
    samples = replace(data.samples, reward=data.samples.reward.float(), memory=data.samples.memory.float())
    inputs = PartInputs(tokens, samples, PolicyOutputs(logp, torch.ones_like(logp), gap * torch.ones_like(logp)))
    assert all(torch.isfinite(coefficient(inputs, method.terms, on)).all() for on in method.streams)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("demonstrations", "rollouts"), [(True, False), (False, True)])
def test_law_8_a_source_may_be_absent(name: str, demonstrations: bool, rollouts: bool) -> None:
    method = stage(name)
    data = numbers(groups(4, demonstrations=demonstrations, rollouts=rollouts), method)
    if data is not None:
        assert all(torch.isfinite(grad).all() for grad in ours(data, method))


@pytest.mark.parametrize("name", NAMES)
def test_a_single_token_and_an_empty_group_are_fine(name: str) -> None:
    method = stage(name)
    made = groups(0, rewards=((1.0, 0.0),))
    rng = random.Random(0)
    made[0].samples = [sample(rng, "demonstration", 1.0, 1), sample(rng, "rollout", 0.0, 1)]
    made.append(type(made[0])(made[0].problem, []))
    data = numbers(made, method)
    if data is not None:
        assert all(torch.isfinite(grad).all() for grad in ours(data, method))


@pytest.mark.parametrize("name", NAMES)
def test_samples_with_zero_gradient_have_none_whatever_the_policy(name: str) -> None:
    method = stage(name)
    data = numbers(groups(8), method)
    assert data is not None
    left_out = has_zero_gradient(data.samples, method.terms)[data.tokens.sample]
    for gradient in ours(data, method):
        assert (gradient[left_out] == 0).all()


@pytest.mark.parametrize(
    ("name", "options"), [("dr_grpo", {}), ("grpo", {"beta": 0.0}), ("hpt", {"entropy_coef": 0.0})]
)
def test_equal_rewards_have_a_zero_gradient(name: str, options: dict[str, object]) -> None:
    method = stage(name, options)
    data = numbers(groups(8, rewards=((1.0,) * 4, (1.0, 0.0, 0.0, 1.0))), method)
    assert data is not None
    own = data.samples.counts[:, int(Source.ROLLOUT)] > 0
    found = has_zero_gradient(data.samples, method.terms)
    assert found[own & (data.samples.group == 0)].all() and not found[own & (data.samples.group == 1)].any()
    assert not has_zero_gradient(data.samples, stage("grpo").terms).any()  # its KL moves every token


@pytest.mark.parametrize("name", NAMES)
def test_the_known_gradient_is_that_of_an_unchanged_policy(name: str) -> None:
    method = stage(name)
    data = numbers(groups(6), method)
    assert data is not None
    known = known_gradients(data.tokens, data.samples, method.terms, 0.3)
    unmoved = replace(data, tokens=replace(data.tokens, behavior=data.logp.detach()))
    if known is not None:
        assert torch.equal(ours(unmoved, method, 0.3)[0], known.logp)


def test_no_gradient_is_known_of_parts_that_read_the_policy() -> None:
    known = {"sft", "grpo:no KL", "dr_grpo", "raft", "reinforce", "rloo", "dft"}
    built = {name: stage(name.partition(":")[0], {"beta": 0.0} if ":" in name else None) for name in known}
    found = set()
    for name, method in built.items():
        data = numbers(groups(6), method)
        assert data is not None
        found |= {name} if known_gradients(data.tokens, data.samples, method.terms, 0.0) is not None else set()
    assert found == {"sft", "grpo:no KL", "dr_grpo", "raft", "reinforce"}  # not DFT's p, nor RLOO's product
