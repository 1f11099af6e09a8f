"""The optimizer's step: what is taken, what is refused, the schedule and the restart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from obverse.config.train import TrainConfig
from obverse.errors import DivergedError
from obverse.training.optimizer import Optimizer


def build(total_steps: int = 10, **options: object) -> tuple[nn.Linear, Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    config = TrainConfig(method="sft", **({"learning_rate": 0.1} | options))  # type: ignore[arg-type]
    return model, Optimizer(model, config, total_steps)


def set_gradient(model: nn.Linear, norm: float) -> None:
    """A gradient of that norm, all in the weight."""
    model.weight.grad = torch.zeros_like(model.weight)
    model.weight.grad[0, 0] = norm
    model.bias.grad = torch.zeros_like(model.bias)


def test_a_step_moves_the_weights_and_tells_the_norm_before_the_clip() -> None:
    model, optimizer = build(max_grad_norm=1.0)
    before = model.weight.detach().clone()
    set_gradient(model, 7.0)
    result = optimizer.step()
    assert result.taken and result.grad_norm == pytest.approx(7.0)
    assert not torch.equal(model.weight, before)
    assert model.weight.grad is None
    moment = optimizer.tensors()["weight/exp_avg"]
    assert float(moment[0, 0]) == pytest.approx(0.1, rel=1e-4)  # (1 - beta1) times the clipped gradient


def test_no_clip_when_it_is_off() -> None:
    model, optimizer = build(max_grad_norm=0.0)
    set_gradient(model, 7.0)
    optimizer.step()
    assert float(optimizer.tensors()["weight/exp_avg"][0, 0]) == pytest.approx(0.7)


@pytest.mark.parametrize("norm", [81.0, float("inf"), float("nan")])
def test_a_step_above_the_limit_or_not_finite_is_not_taken(norm: float) -> None:
    model, optimizer = build(skip_grad_norm=80.0)
    before = model.weight.detach().clone()
    set_gradient(model, norm)
    assert not optimizer.step().taken
    assert torch.equal(model.weight, before)
    set_gradient(model, 79.0)
    assert optimizer.step().taken


def test_only_steps_that_are_not_finite_end_a_run_and_only_in_a_row() -> None:
    model, optimizer = build(skip_grad_norm=1.0)
    for norm in (5.0, 5.0, 5.0, torch.nan, torch.nan, 0.5, torch.nan, torch.nan):
        set_gradient(model, norm)
        optimizer.step()
    set_gradient(model, torch.inf)
    with pytest.raises(DivergedError, match="3 steps in a row"):
        optimizer.step()


@pytest.mark.parametrize("warmup_steps", [2, 0.3])  # 0.3 of 6 steps, rounded up
def test_the_schedule_follows_the_steps_taken_or_not(warmup_steps: float) -> None:
    model, optimizer = build(total_steps=6, lr_scheduler_type="linear", warmup_steps=warmup_steps)
    rates = []
    for step in range(6):
        rates.append(optimizer.learning_rate)
        if step == 3:
            optimizer.skip_step()
        else:
            set_gradient(model, 0.1)
            optimizer.step()
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.075, 0.05, 0.025])


def test_weight_decay_is_for_matrices_only() -> None:
    model, optimizer = build(weight_decay=0.5)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    model.weight.grad, model.bias.grad = torch.zeros_like(model.weight), torch.zeros_like(model.bias)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), weight * (1 - 0.1 * 0.5))
    assert torch.equal(model.bias, bias)


def test_a_restored_optimizer_goes_on_as_if_nothing_was() -> None:
    def run(restart: bool) -> torch.Tensor:
        model, optimizer = build(lr_scheduler_type="linear")
        for step in range(6):
            if restart and step == 3:
                tensors = {name: value.clone() for name, value in optimizer.tensors().items()}
                counters = optimizer.counters()
                optimizer = Optimizer(
                    model, TrainConfig(method="sft", learning_rate=0.1, lr_scheduler_type="linear"), 10
                )
                optimizer.restore(tensors, counters)
            set_gradient(model, 0.1 * (step + 1))
            optimizer.step()
        return model.weight.detach()

    assert torch.equal(run(restart=False), run(restart=True))
