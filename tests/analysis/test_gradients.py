"""Gradients of a real model: figures from inner products, sketches, and the gradient itself against a plain loss."""

from __future__ import annotations

import math

import pytest
import torch

from obverse.analysis.context import Context, NamedMethod, chosen_methods, load_context, with_run_options
from obverse.analysis.gradients import (
    DEMONSTRATIONS,
    ROLLOUTS,
    UNBIASED,
    WHOLE,
    between,
    cosine,
    gradients,
    gram,
    one_batch,
    policy_gradient,
    sketched,
    stage_of,
    vector,
)
from obverse.config.analyze import GradientsConfig
from obverse.errors import ConfigError
from obverse.models.batch import pack

# two gradients over two batches: the second is the first plus a constant
PAIR = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [0.0, 3.0]]])


def test_figures_by_hand() -> None:
    products = gram(PAIR)
    assert between(products, 0, 0) == 0  # the two batches' gradients are orthogonal: all noise
    assert between(products, 1, 1) == 3
    assert between(products, 0, 1) == pytest.approx((1 * 0 + 0 * 3 + 0 * 1 + 2 * 1) / 2)
    assert cosine(products, 0, 1) is None and cosine(products, 1, 1) == 1
    stage = stage_of("now", [("m", WHOLE), (UNBIASED, WHOLE)], products)
    first, true = stage.rows
    assert first.norm is None and first.scale == pytest.approx(1 / 3) and first.variance == pytest.approx(2.5 / 3)
    assert first.bias == pytest.approx(math.sqrt((0 - 2 + 3) / 3))
    assert first.error == pytest.approx(1 - 1 / (3 * 2.5))
    assert true.bias == 0 and true.cosine == 1 and true.snr == pytest.approx(3 / 2.5)
    assert stage.cosines[0][1] == pytest.approx((1 / math.sqrt(2) + 1) / 2)


def test_a_sketch_keeps_inner_products() -> None:
    rng = torch.Generator().manual_seed(0)
    # with a mean, so that numbers that meet in one place would add up without their signs
    base, noise = 1 + torch.randn(5000, generator=rng), torch.randn(5000, generator=rng)
    shifted = base + noise
    first, second = sketched(base, 1024, 7), sketched(shifted, 1024, 7)
    assert float(first @ second) == pytest.approx(float(base @ shifted), rel=0.2)
    assert float(first @ first) == pytest.approx(float(base @ base), rel=0.2)
    assert torch.allclose(sketched(base + 2 * shifted, 1024, 7), first + 2 * second, atol=1e-3)
    assert not torch.equal(first, sketched(base, 1024, 8))


SMALL = {"model": "embedded", "num_problems": 2, "num_generations": 2, "num_batches": 2, "max_completion_length": 24}


@pytest.fixture(scope="module")
def context() -> Context:
    return load_context(with_run_options(GradientsConfig(**SMALL, methods="sft")), "embedded", "embedded")


def test_the_gradient_is_that_of_the_plain_loss(context: Context) -> None:
    """REINFORCE by a plain forward pass over each sample, and SFT likewise."""
    model = context.policy.model
    for name, weigh in (("reinforce", lambda reward, num: reward / num), ("sft", None)):
        (named,) = chosen_methods(with_run_options(GradientsConfig(**SMALL, methods=name)))
        groups = context.groups(named.method, 0, 2, 0.0)
        selected = [sample for group in groups for sample in named.method.select(group)]
        for number, sample in enumerate(selected):  # the base solves little: as if it had solved every other one
            sample.grade = type(sample.grade)(number % 2 == 0, float(number % 2 == 0))
        update = pack([named.method.select(group) for group in groups], named.method.sources)
        direction = vector(context.learner(named.method), update, 0.0, named.method.terms, sketch=0)
        model.zero_grad()
        num_tokens = sum(len(sample.ids) for sample in selected)
        for sample in selected:
            ids = torch.tensor([sample.model_input.token_ids])
            logits = model(input_ids=ids).logits[0, len(sample.prompt) - 1 : -1].log_softmax(-1)
            total = logits.gather(-1, torch.tensor(sample.ids)[:, None]).sum()
            (-total * (weigh(sample.reward, len(selected)) if weigh else 1 / num_tokens)).backward()
        plain = torch.cat([-parameter.grad.flatten() for parameter in model.parameters()])
        model.zero_grad()
        assert float((direction - plain).norm() / plain.norm()) < 1e-4, name


def test_methods_that_ask_alike_see_the_same_samples(context: Context) -> None:
    config = with_run_options(
        GradientsConfig(**SMALL | {"num_problems": 12, "num_generations": 4}, methods="rloo,dr_grpo,hpt", sketch=0)
    )
    rows = dict(
        one_batch(context, [*chosen_methods(config), NamedMethod(UNBIASED, policy_gradient(config))], config, 0, 0.0)
    )
    assert list(rows) == [
        ("rloo", WHOLE),
        ("dr_grpo", WHOLE),
        ("hpt", WHOLE),
        ("hpt", DEMONSTRATIONS),
        ("hpt", ROLLOUTS),
        (UNBIASED, WHOLE),
    ]
    assert torch.allclose(rows["hpt", DEMONSTRATIONS] + rows["hpt", ROLLOUTS], rows["hpt", WHOLE], atol=1e-6)
    assert float(rows[UNBIASED, WHOLE].norm()) > 0
    assert torch.allclose(rows["rloo", WHOLE], rows[UNBIASED, WHOLE], atol=1e-5)
    # the whole group as baseline, three quarters of the others alone, and a constant length of 24 in place of a sum
    assert torch.allclose(rows["dr_grpo", WHOLE] * 24 * 4 / 3, rows[UNBIASED, WHOLE], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": "ppo"}, "needs a critic"),
        ({"methods": "ift"}, "changes what the policy reads"),
        ({"methods": None}, "--methods: is required"),
        ({"methods": "nothing"}, "unknown method"),
    ],
)
def test_what_cannot_be_had(options: dict[str, str | None], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        gradients(GradientsConfig(**SMALL | options))
