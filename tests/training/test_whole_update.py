"""Numbers of the whole update: equal for any split of it, and refused where only a part of it is there."""

from __future__ import annotations

import pytest
import torch
from exam.batches import groups, numbers
from tiny_models import tiny_model, tiny_tokenizer
from torch import Tensor
from training.test_divergence_update import learner_of, update

from obverse import methods
from obverse.errors import ConfigError
from obverse.estimator.formula import Term
from obverse.estimator.method import Method
from obverse.estimator.parts import Behavior, Clip, One, PerToken, Request, Reward, SecondMomentClip, TopEntropy
from obverse.estimator.parts.over_update import quantile
from obverse.estimator.tables import PartInputs, PolicyOutputs
from obverse.models.batch import Update
from obverse.models.policy import as_policy
from obverse.training import update as update_module
from obverse.training.prepared_update import prepare_update
from obverse.training.update import BackwardPass
from obverse.training.whole_update import whole_update
from obverse.types import Source

MASKS = {
    "entropy": TopEntropy(Clip(0.9, 9.0), 0.3),
    "second moment": SecondMomentClip(0.3, 0.0, 0.0, advantage=One()),
}

GROUPED = Method(Request(2), (Term(Source.ROLLOUT, One(), Behavior(), normalizer=PerToken()),))


def gradient(mask: str, budget: int, packed: Update | None = None) -> Tensor:
    """The gradient of all weights of a tiny model, with micro batches of at most `budget` tokens."""
    term = Term(Source.ROLLOUT, One(), Behavior(), MASKS[mask], normalizer=PerToken())  # type: ignore[arg-type]
    model = tiny_model("qwen2", tiny_tokenizer("qwen2")).double()
    learner = learner_of(Method(ask=Request(3), terms=(term,)), as_policy(model), None, budget)
    prepared = prepare_update(learner, packed or update(frozenset({Source.ROLLOUT})), is_repeated=False)
    backward = BackwardPass(learner, prepared, 0.0, compares_sampler=False)
    for number, micro in enumerate(prepared.micros):
        backward.run(micro, number)
    backward.readers.policy.finish()
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


@pytest.mark.parametrize("mask", MASKS)
def test_the_split_of_an_update_changes_no_gradient(mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = gradient(mask, 10**6), gradient(mask, 30)
    assert whole.abs().max() > 0
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)
    monkeypatch.setattr(update_module, "whole_update", lambda *_: None)  # no first pass
    with pytest.raises(ConfigError, match="column update"):
        gradient(mask, 30)


def test_a_sample_without_a_gradient_is_part_of_the_update() -> None:
    """A reward of 0 has no gradient, but its tokens' entropies count in the quantile."""
    packed = update(frozenset({Source.ROLLOUT}))
    method = Method(
        ask=Request(3), terms=(Term(Source.ROLLOUT, Reward(), mask=TopEntropy(Clip(), 0.5), normalizer=PerToken()),)
    )
    model = tiny_model("qwen2", tiny_tokenizer("qwen2")).double()
    learner = learner_of(method, as_policy(model), None, 30)
    prepared = prepare_update(learner, packed, is_repeated=False)
    assert sum(len(micro.tokens) for micro in prepared.micros) < packed.num_tokens
    whole = whole_update(learner, prepared, 0.0)
    assert whole is not None and len(whole.inputs.tokens) == packed.num_tokens
    assert len(whole.tokens) == len(prepared.micros)


def test_the_quantile_is_that_of_torch() -> None:
    values = torch.rand(37, dtype=torch.float64)
    for fraction in (0.0, 0.1, 0.5, 0.8, 1.0):
        assert float(quantile(values, fraction)) == pytest.approx(float(values.quantile(fraction)), abs=1e-12)


def test_the_second_moment_has_the_published_threshold() -> None:
    """d^2 of .01, .04, .09, .25 within a budget of .04 give tau .2 and a capped mean of .0325."""
    squares = torch.tensor([0.01, 0.04, 0.09, 0.25], dtype=torch.float64)
    assert torch.minimum(squares, squares[1]).mean() == pytest.approx(0.0325)
    assert threshold(squares, 0.04) == pytest.approx(0.2)
    assert threshold(squares, 0.001) == 0.0 and threshold(squares, 1.0) == pytest.approx(0.5)


def threshold(squares: Tensor, budget: float) -> float:
    """tau of tokens whose log-ratios have these squares, behind others that have not moved."""
    data = numbers(groups(1, rewards=((1.0, 1.0),), demonstrations=False), GROUPED)
    assert data is not None
    log_ratio = torch.zeros_like(data.logp.detach())
    log_ratio[: len(squares)] = squares.sqrt()
    outputs = PolicyOutputs(data.tokens.behavior + log_ratio, data.entropy.detach())
    return SecondMomentClip(budget, advantage=One()).threshold(PartInputs(data.tokens, data.samples, outputs))


def test_a_component_for_any_method() -> None:
    gated = methods.build("grpo", {"top_entropy_quantile": 0.2})
    assert isinstance(gated, Method) and gated.reads_update
    masks = [str(term.mask).partition("(")[0] for term in gated.terms]
    assert masks == ["top_entropy", "always"]  # not the KL
    with pytest.raises(ConfigError, match="top_entropy_quantile"):
        methods.build("sft", {"top_entropy_quantile": 0.2})
    with pytest.raises(ConfigError, match="top_entropy_quantile"):
        methods.build("grpo", {"top_entropy_quantile": 0.0})
