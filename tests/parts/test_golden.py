"""Golden numbers of the parts: one token with p = 0.30, pi_old = 0.25, pi_anchor = 0.20, computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from obverse.estimator.formula import Term, coefficient
from obverse.estimator.parts import (
    Behavior,
    Centered,
    Clip,
    Constant,
    One,
    Part,
    PerSequence,
    PerToken,
    Standardized,
    TowardsAnchor,
)
from obverse.estimator.tables import PartInputs, PolicyOutputs, Samples, Tokens
from obverse.types import Source


def inputs(
    rewards: tuple[float, ...] = (1.0,), old: float = 0.25, groups: tuple[int, ...] | None = None, tokens: int = 1
) -> PartInputs:
    num = len(rewards)
    column = lambda value: torch.full((num * tokens,), value, dtype=torch.float64)  # noqa: E731
    logs = {name: column(value).log() for name, value in (("behavior", old), ("anchor", 0.20))}
    sample = torch.arange(num).repeat_interleave(tokens)
    source = torch.full((num * tokens,), int(Source.ROLLOUT))
    counts = torch.zeros(num, len(Source), dtype=torch.long)
    counts[:, int(Source.ROLLOUT)] = tokens
    reward = torch.tensor(rewards, dtype=torch.float64)
    group = torch.tensor(groups or (0,) * num)
    table = Tokens(sample, source, sample * 0, logs["behavior"], logs["anchor"], column(0.0))
    return PartInputs(
        table,
        Samples(reward, reward >= 1, group, reward < 0, counts, memory=reward * 0),
        PolicyOutputs(column(0.30).log(), column(1.0)),
    )


class Fixed(Part):
    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, inputs: PartInputs) -> torch.Tensor:
        return torch.full_like(inputs.policy.logp, self.value)


def weight(term: Term, at: PartInputs) -> float:
    return float(coefficient(at, (term,))[0])


@pytest.mark.parametrize(
    ("advantage", "old", "expected"), [(0.5, 0.25, 0.6), (0.5, 0.24, 0.0), (-0.5, 0.24, -0.625), (-0.5, 0.60, 0.0)]
)
def test_ppo_clip(advantage: float, old: float, expected: float) -> None:
    # 0.3 / 0.25 is 1.2 up to rounding, hence 0.21
    term = Term(Source.ROLLOUT, Fixed(advantage), Behavior(), Clip(0.2, 0.21), normalizer=PerToken())
    assert weight(term, inputs(old=old)) == pytest.approx(expected, abs=1e-12)


def test_sft_is_one_and_k3_pulls_towards_the_anchor() -> None:
    assert weight(Term(Source.ROLLOUT, normalizer=PerToken()), inputs()) == 1.0
    pull = Term(Source.ROLLOUT, TowardsAnchor(), normalizer=PerToken(), weight=0.05)
    assert weight(pull, inputs()) == pytest.approx(-0.016667, abs=1e-6)


def test_group_advantages() -> None:
    four = inputs((1.0, 0.0, 0.0, 1.0))
    assert Centered()(four).tolist() == [0.5, -0.5, -0.5, 0.5]
    assert Standardized()(four).tolist() == pytest.approx([0.866, -0.866, -0.866, 0.866], abs=1e-3)
    two_groups = inputs((1.0, 0.0, 1.0), groups=(0, 0, 1))
    assert Centered()(two_groups).tolist() == [0.5, -0.5, 0.0]
    assert Standardized()(two_groups).tolist()[2] == 0.0
    assert Standardized()(inputs((0.3,) * 4)).abs().max() == 0


def test_shares_are_their_denominators() -> None:
    at = inputs((1.0, 0.0), tokens=3)
    assert PerToken()(at, Source.ROLLOUT).tolist() == pytest.approx([1 / 6] * 6)
    assert PerSequence()(at, Source.ROLLOUT).tolist() == pytest.approx([1 / 6] * 6)
    assert Constant(10)(at, Source.ROLLOUT).tolist() == pytest.approx([1 / 20] * 6)
    uneven = at._replace(samples=replace(at.samples, counts=at.samples.counts * torch.tensor([[1], [2]])))
    assert PerSequence()(uneven, Source.ROLLOUT).tolist() == pytest.approx([1 / 6] * 3 + [1 / 12] * 3)


def test_a_source_without_tokens_has_a_finite_share() -> None:
    for normalizer in (PerToken(), PerSequence(), Constant(8)):
        assert torch.isfinite(normalizer(inputs(), Source.HINT)).all()


def test_terms_touch_their_own_source_only() -> None:
    term = Term(Source.DEMONSTRATION, One(), normalizer=PerToken())
    assert coefficient(inputs(), (term,)).tolist() == [0.0]
