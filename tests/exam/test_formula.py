"""The laws of the estimator, for every method of the folder: 1 to 5, 7 and 8."""

from __future__ import annotations

import importlib
import random
from dataclasses import replace

import pytest
import torch
from exam.batches import Numbers, gradients, groups, numbers, ours, sample, whole

from obverse import methods
from obverse.batch import pack
from obverse.estimator import coefficient, loss
from obverse.view import Live, View

NAMES = methods.names()
MIXED = ((1.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0), (0.0, 1.0, 0.0, 0.0))


def cases() -> list[tuple[str, int]]:
    return [(name, i) for name in NAMES for i in range(len(importlib.import_module(f"literal.{name}").CASES))]


@pytest.mark.parametrize(("name", "case"), cases())
@pytest.mark.parametrize("spread", [0.05, 0.4, 3.0])
def test_law_1_the_coefficient_is_the_gradient_of_the_papers_loss(name: str, case: int, spread: float) -> None:
    options, literal = importlib.import_module(f"literal.{name}").CASES[case]
    method = methods.build(name, options)
    for seed in range(5):
        data = numbers(groups(seed), method, seed, spread)
        assert data is not None
        expected, found = gradients(literal(data), data), ours(data, method)
        assert expected[0].abs().max() > 0
        for theirs, mine in zip(expected, found, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def by_place(data: Numbers, values: torch.Tensor) -> dict[tuple[int, int], float]:
    places = zip(data.tokens.sample.tolist(), data.tokens.position.tolist(), strict=True)
    return dict(zip(places, values.tolist(), strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [1, 12, 30])
def test_law_2_any_split_gives_the_same_gradient(name: str, budget: int) -> None:
    method = methods.build(name)
    data = numbers(groups(3), method)
    assert data is not None
    expected = by_place(data, ours(data, method)[0])
    logp, entropy = by_place(data, data.logp), by_place(data, data.entropy)
    columns = {column: by_place(data, getattr(data.tokens, column)) for column in ("behavior", "anchor", "advantage")}
    found: dict[tuple[int, int], float] = {}
    micros = list(data.update.micros(budget))
    assert len(micros) > 1
    for micro in micros:
        places = list(zip(micro.tokens.sample.tolist(), micro.tokens.position.tolist(), strict=True))
        pick = lambda table, at=places: torch.tensor([table[place] for place in at], dtype=torch.float64)  # noqa: E731
        tokens = replace(micro.tokens, **{column: pick(table) for column, table in columns.items()})
        live = pick(logp).requires_grad_()
        value = loss(tokens, data.samples, live, pick(entropy), method.terms)
        found |= dict(zip(places, torch.autograd.grad(value, live)[0].tolist(), strict=True))
    assert found.keys() == expected.keys()
    assert all(abs(found[place] - expected[place]) < 1e-14 for place in expected)


@pytest.mark.parametrize("name", NAMES)
def test_law_3_the_order_of_samples_does_not_matter(name: str) -> None:
    method = methods.build(name)
    data = numbers(groups(5), method)
    assert data is not None
    perm = torch.randperm(len(data.samples), generator=torch.Generator().manual_seed(0))
    place = torch.empty_like(perm).scatter_(0, perm, torch.arange(len(perm)))
    shuffled = type(data.samples)(**{name: column[perm] for name, column in vars(data.samples).items()})
    tokens = replace(data.tokens, sample=place[data.tokens.sample])
    view = View(data.tokens, data.samples, Live(data.logp.detach(), data.entropy.detach()))
    moved = view._replace(tokens=tokens, samples=shuffled)
    torch.testing.assert_close(
        coefficient(moved, method.terms), coefficient(view, method.terms), rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("name", NAMES)
def test_law_4_prompt_tokens_get_no_gradient(name: str) -> None:
    method = methods.build(name)
    update = pack([method.select(group) for group in groups(7)], method.sources)
    assert update is not None
    micro = whole(update)
    num_rows, length = micro.input_ids.shape
    logits = torch.randn(num_rows, length, 30, dtype=torch.float64, requires_grad=True)
    logp = logits.log_softmax(-1)[micro.row, micro.position].gather(-1, micro.target[:, None])[:, 0]
    loss(micro.tokens, update.samples, logp, torch.zeros_like(logp), method.terms).backward()
    touched = logits.grad.abs().sum(-1) > 0
    trained = torch.zeros_like(touched)
    for i, row in enumerate(sorted(update.rows, key=lambda row: len(row.prompt_ids + row.ids))):
        # position p predicts token p + 1: the first response token is predicted from the prompt's last place
        trained[i, len(row.prompt_ids) - 1 : len(row.prompt_ids) + len(row.ids) - 1] = True
    assert touched.any()
    assert not (touched & ~trained).any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_law_5_equal_rewards_give_zero_or_the_docstring_says_why_not(name: str, reward: float) -> None:
    method = methods.build(name)
    data = numbers(groups(1, rewards=((reward,) * 4, (reward,) * 4)), method)
    excused = "equal rewards" in (methods.find(name).__doc__ or "").lower()
    if data is not None and ours(data, method)[0].abs().max() > 0:
        assert excused, f"{name} trains on equal rewards and its docstring does not say why"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gap", [-200.0, -50.0, 50.0, 200.0])
def test_law_7_finite_at_extreme_log_ratios(name: str, gap: float) -> None:
    method = methods.build(name)
    data = numbers(groups(2), method)
    assert data is not None
    logp = torch.full_like(data.logp, -0.1 if gap > 0 else gap - 0.1).float()
    other = (logp - gap).clamp(max=0) if gap < 0 else logp - gap
    tokens = replace(data.tokens, behavior=other, anchor=other)
    view = View(tokens, replace(data.samples, reward=data.samples.reward.float()), Live(logp, torch.ones_like(logp)))
    assert torch.isfinite(coefficient(view, method.terms)).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("demonstrations", "rollouts"), [(True, False), (False, True)])
def test_law_8_a_source_may_be_absent(name: str, demonstrations: bool, rollouts: bool) -> None:
    method = methods.build(name)
    data = numbers(groups(4, demonstrations=demonstrations, rollouts=rollouts), method)
    if data is not None:
        assert all(torch.isfinite(grad).all() for grad in ours(data, method))


@pytest.mark.parametrize("name", NAMES)
def test_a_single_token_and_an_empty_group_are_fine(name: str) -> None:
    method = methods.build(name)
    made = groups(0, rewards=((1.0, 0.0),))
    rng = random.Random(0)
    made[0].samples = [sample(rng, "demonstration", 1.0, 1), sample(rng, "rollout", 0.0, 1)]
    made.append(type(made[0])(made[0].problem, []))
    data = numbers(made, method)
    if data is not None:
        assert all(torch.isfinite(grad).all() for grad in ours(data, method))
