"""The loss for one's own training loop is that of the library."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from exam.batches import Numbers, groups, numbers, stage

import obverse
from obverse.errors import ConfigError, DataError
from obverse.estimator.formula import loss as library_loss
from obverse.types import Source

# own samples, demonstrations, both, pairs, a critic, a score, a teacher, a divergence
METHODS = (
    "grpo",
    "gspo",
    "cispo",
    "rloo",
    "sft",
    "dft",
    "hpt",
    "luffy",
    "chord",
    "dpo",
    "ppo",
    "reward_model",
    "opd",
    "asft",
    "kto",
    "clip_cov",
    "exgrpo",
)


def padded(data: Numbers, column: torch.Tensor) -> torch.Tensor:
    """A column [T] as [S, L]."""
    table = column.new_zeros(len(data.samples), int(data.tokens.position.max()) + 1)
    table[data.tokens.sample, data.tokens.position] = column
    return table


def arguments(data: Numbers, method: Any) -> dict[str, Any]:
    """The update as the arguments of `obverse.loss`."""
    mask = padded(data, torch.ones_like(data.tokens.position)).bool()
    samples = data.update.rows
    columns = {
        name: padded(data, getattr(data.tokens, name))
        for name in ("behavior", "anchor", "advantage", "sampler", "teacher")
    }
    if method.critic is not None:
        columns |= {"old_value": padded(data, data.tokens.value), "returns": padded(data, data.tokens.returns)}
    has_head = bool(method.streams & {"value", "score"})
    return {
        "mask": mask,
        "reward": data.samples.reward,
        "problem": data.samples.group.tolist(),
        "kind": [sample.kind for sample in samples],
        "correct": data.samples.correct,
        "truncated": data.samples.truncated,
        "num_hint": [sample.sources.count(Source.HINT) for sample in samples],
        "uniform": data.samples.uniform,
        "memory": data.samples.memory if method.memory is not None else None,
        "behavior": columns.pop("behavior"),
        "anchor": columns.pop("anchor"),
        "entropy": padded(data, data.entropy) if "entropy" in method.streams else None,
        "value": padded(data, data.value) if has_head else None,
        "divergence": padded(data, data.divergence) if "divergence" in method.streams else None,
        "columns": columns,
    }


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_that_of_the_library(name: str) -> None:
    method = stage(name)
    data = numbers(groups(5), method, seed=5)
    assert data is not None
    streams = (data.logp, data.entropy, method.terms, 0.0, data.value, data.divergence)
    expected = library_loss(data.tokens, data.samples, *streams)
    total = obverse.loss(name, padded(data, data.logp), **arguments(data, method))
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)
    leaves = [data.logp, data.entropy, data.value, data.divergence]
    ours, theirs = (
        torch.cat(torch.autograd.grad(scalar, leaves, allow_unused=True, materialize_grads=True))
        for scalar in (total, expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert ours.abs().max() > 0


def test_rewards_kept_apart_cannot_be_given_as_their_sum() -> None:
    with pytest.raises(ConfigError, match="several rewards"):
        obverse.loss("gdpo", torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool), reward=[1.0, 0.0], problem=[0, 0])


def test_a_divergence_has_to_be_given() -> None:
    logp, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    same = {"mask": mask, "problem": [0], "kind": "demonstration"}
    with pytest.raises(ConfigError, match="divergence"):
        obverse.loss("gift", logp, **same)
    with pytest.raises(ConfigError, match="shape"):
        obverse.loss("gift", logp, divergence=torch.zeros(2, 2), **same)
    divergence = torch.zeros(1, 2, requires_grad=True)
    obverse.loss("gift", logp, divergence=divergence, **same).backward()
    assert divergence.grad is not None and divergence.grad.tolist() == [[0.5, 0.5]]


def test_unselected_samples_have_no_gradient() -> None:
    logp = torch.full((3, 2), -1.0, requires_grad=True)
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    kinds = ["demonstration", "rollout", "rollout"]
    same = {"mask": mask, "problem": ["p"] * 3, "kind": kinds, "entropy": torch.zeros(3, 2)}
    obverse.loss("hpt", logp, reward=[1.0, 0.0, 0.0], **same).backward()
    assert logp.grad is not None and logp.grad[0].tolist() == [-0.5, -0.5] and not logp.grad[1:].any()
    method = obverse.find("hpt")()
    again = torch.full((3, 2), -1.0, requires_grad=True)
    obverse.loss(method, again, reward=[1.0, 0.0, 0.0], **same).backward()
    assert torch.equal(again.grad, logp.grad)
    half = logp.detach().bfloat16().requires_grad_()
    assert obverse.loss("hpt", half, reward=[1.0, 0.0, 0.0], **same).dtype == torch.float32


def test_mistakes_name_the_argument() -> None:
    logp, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    good = {"reward": [1.0, 0.0], "problem": [0, 0]}
    for change, message in [
        ({"reward": [1.0]}, "reward: has 1"),
        ({"anchor": torch.zeros(2, 2)}, "anchor: has the shape"),
        ({"kind": "rolout"}, "kind: expects"),
        ({"columns": {"advantages": logp}}, "no 'advantages'"),
        ({"beta": "x"}, "beta: expects a number"),
    ]:
        with pytest.raises(ConfigError, match=message):
            obverse.loss("grpo", logp, mask, **{**good, **change})
    with pytest.raises(DataError, match="anchor is missing"):
        obverse.loss("grpo", logp, mask, **good, beta=0.04)
    with pytest.raises(ConfigError, match="entropy bonus"):
        obverse.loss("hpt", logp, mask, **good)
    with pytest.raises(ConfigError, match="several stages"):
        obverse.loss("alternate", logp, mask, **good)


def test_rewards_are_finite_or_of_no_rollout() -> None:
    logp, mask = torch.full((2, 3), -1.0, requires_grad=True), torch.ones(2, 3, dtype=torch.bool)
    total = obverse.loss("sft", logp, mask, problem=[0, 1], kind="demonstration")
    assert total == obverse.loss("sft", logp, mask, problem=[0, 1], kind="demonstration", reward=[1.0, 0.0])
    for change, message in [
        ({}, "reward: expects a finite number for sample 0, a rollout, not None"),
        ({"reward": [1.0, float("nan")]}, "reward: .* sample 1"),
        ({"reward": torch.ones(2, 1)}, "reward: .* sample 0"),
        ({"reward": [1.0, 0.0], "num_hint": [0, 4]}, "num_hint: sample 1 has 3 tokens"),
    ]:
        with pytest.raises(ConfigError, match=message):
            obverse.loss("dr_grpo", logp, mask, problem=[0, 0], **change)
