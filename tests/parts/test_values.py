"""A critic's parts against naive loops: advantages and returns of ragged samples, and the clipped square it learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from obverse.estimator.formula import shaped
from obverse.estimator.parts import GAE, AnchorPenalty, Surprise, Written
from obverse.estimator.tables import PartInputs, PolicyOutputs, Samples, Tokens
from obverse.methods import build
from obverse.types import Source

LENGTHS = (3, 1, 7, 4, 2)


def inputs(seed: int = 0, shuffled: bool = True, offset: int = 0) -> PartInputs:
    """Ragged own samples with random numbers; Samples.reward has the shaping in it, as in an update."""
    rng = torch.Generator().manual_seed(seed)
    sample = torch.tensor([i for i, length in enumerate(LENGTHS) for _ in range(length)])
    position = torch.tensor([offset + t for length in LENGTHS for t in range(length)])
    num = len(sample)
    order = torch.randperm(num, generator=rng) if shuffled else torch.arange(num)
    draw = lambda size=num: torch.randn(size, generator=rng, dtype=torch.float64)  # noqa: E731
    source = torch.full((num,), int(Source.ROLLOUT))
    columns = {name: draw() for name in ("advantage", "value", "returns", "reward")}
    tokens = Tokens(sample[order], source, position[order], -draw().abs(), -draw().abs(), **columns)
    counts = torch.zeros(len(LENGTHS), len(Source), dtype=torch.long)
    counts[:, int(Source.ROLLOUT)] = torch.tensor(LENGTHS)
    reward = draw(len(LENGTHS)).index_add(0, tokens.sample, tokens.reward)
    right = reward > 0
    return PartInputs(
        tokens,
        Samples(reward, right, torch.arange(len(LENGTHS)), ~right, counts),
        PolicyOutputs(draw(), draw(), draw()),
    )


def naive(at: PartInputs, gamma: float, lam: float) -> dict[tuple[int, int], float]:
    """1506.02438 eq. 16 as a double loop over each sample: sum_k (gamma lam)^k delta_(t+k), by sample and position."""
    found = {}
    for row in range(len(at.samples)):
        mine = [i for i in range(len(at.tokens)) if at.tokens.sample[i] == row]
        mine.sort(key=lambda i: int(at.tokens.position[i]))
        values = [float(at.tokens.value[i]) for i in mine] + [0.0]
        rewards = [float(at.tokens.reward[i]) for i in mine]
        rewards[-1] += float(at.samples.reward[row]) - sum(rewards)  # what the verifier gave
        for t, place in enumerate(mine):
            total = 0.0
            for k in range(len(mine) - t):
                delta = rewards[t + k] + gamma * values[t + k + 1] - values[t + k]
                total += (gamma * lam) ** k * delta
            found[row, int(at.tokens.position[place])] = total
    return found


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.7), (0.5, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("offset", [0, 5])
def test_advantages_are_the_double_loops(gamma: float, lam: float, shuffled: bool, offset: int) -> None:
    for seed in range(4):
        at = inputs(seed, shuffled, offset)
        advantages, returns = GAE(gamma, lam)(at)
        expected = naive(at, gamma, lam)
        places = zip(at.tokens.sample.tolist(), at.tokens.position.tolist(), strict=True)
        wanted = torch.tensor([expected[place] for place in places], dtype=torch.float64)
        torch.testing.assert_close(advantages, wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(returns, wanted + at.tokens.value, rtol=1e-12, atol=1e-12)


def test_a_micro_batch_gives_the_same_advantages() -> None:
    at, gae = inputs(3), GAE(0.9, 0.8)
    whole, _ = gae(at)
    for rows in ([0, 2], [1], [3, 4]):
        keep = torch.isin(at.tokens.sample, torch.tensor(rows))
        piece, _ = gae(at._replace(tokens=at.tokens.rows(keep)))
        torch.testing.assert_close(piece, whole[keep], rtol=1e-12, atol=1e-12)


def test_without_discount_a_token_should_expect_what_is_still_to_come() -> None:
    at = inputs(1, shuffled=False)
    plain = replace(at.tokens, reward=torch.zeros_like(at.tokens.reward))
    _, returns = GAE()(at._replace(tokens=plain))
    torch.testing.assert_close(returns, at.spread(at.samples.reward))


def test_a_kl_in_the_reward_is_counted_once_and_from_its_token_on() -> None:
    at = inputs(2, shuffled=False)
    grade = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.5], dtype=torch.float64)
    tokens, added = shaped(at.tokens, replace(at.samples, reward=grade), (AnchorPenalty(0.1),))
    samples = replace(at.samples, reward=grade + added)
    _, returns = GAE()(at._replace(tokens=tokens, samples=samples))
    gap = 0.1 * (tokens.behavior - tokens.anchor)
    for i in range(len(tokens)):
        row = int(tokens.sample[i])
        later = (tokens.sample == row) & (tokens.position >= tokens.position[i])
        assert float(returns[i]) == pytest.approx(float(grade[row] - gap[later].sum()))


def test_an_adaptive_coefficient_comes_from_the_memory() -> None:
    method = build("ppo", {"kl_coef": 0.3, "kl_target": 0.1, "kl_horizon": 100})
    assert method.memory is not None and method.memory.start == 0.3
    at = inputs(4)
    remembered = replace(at.samples, memory=torch.full_like(at.samples.reward, 0.7))
    _, added = shaped(at.tokens, remembered, method.shaping)
    gap = at.tokens.behavior - at.tokens.anchor
    torch.testing.assert_close(added, -0.7 * at.sample_sum(gap))
    fixed = build("ppo", {"kl_coef": 0.3})
    assert fixed.memory is None and fixed.shaping == (AnchorPenalty(0.3, "k1"),)


@pytest.mark.parametrize("clip", [None, 0.05, 0.5])
def test_what_the_critic_learns_is_the_clipped_square(clip: float | None) -> None:
    at = inputs(5)
    value = at.policy.value.clone().requires_grad_()
    squares = (value - at.tokens.returns) ** 2
    if clip is not None:
        near = at.tokens.value + (value - at.tokens.value).clamp(-clip, clip)
        squares = torch.maximum(squares, (near - at.tokens.returns) ** 2)
    (slope,) = torch.autograd.grad(squares.sum() / 2, value)
    found = Surprise(clip)(at)
    torch.testing.assert_close(found, -slope, rtol=1e-12, atol=1e-12)
    assert (found == 0).any() == (clip is not None)


@pytest.mark.parametrize(
    ("value", "old", "returns", "expected"),
    [
        (1.0, 0.8, 3.0, 2.0),  # within the range
        (2.0, 1.0, 3.0, 0.0),  # it has gone far enough towards the return
        (2.0, 1.0, 0.0, -2.0),  # it has gone far the wrong way
        (0.0, 1.0, 3.0, 3.0),
    ],
)
def test_a_value_that_went_far_enough_rests(value: float, old: float, returns: float, expected: float) -> None:
    at = inputs(shuffled=False)
    fill = lambda number: torch.full_like(at.tokens.value, number)  # noqa: E731
    tokens = replace(at.tokens, value=fill(old), returns=fill(returns))
    outputs = at.policy._replace(value=fill(value))
    assert Surprise(0.5)(at._replace(tokens=tokens, policy=outputs)).tolist() == [expected] * sum(LENGTHS)


def test_a_written_advantage_stands_as_it_is() -> None:
    at = inputs(6)
    assert Written()(at) is at.tokens.advantage
