"""The optimizer's step: AdamW, a schedule, a clip, and the rules by which a step is not taken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import get_scheduler

from obverse.config import TrainConfig
from obverse.errors import DivergedError

# A step whose gradient is not finite is not taken; so many in a row mean that the run is broken.
MAX_BAD_STEPS = 3


@dataclass
class StepResult:
    grad_norm: float  # before clipping
    taken: bool


class Optimizer:
    """AdamW over the trainable parameters, in fp32 moments, with the run's schedule; one `step` per update."""

    def __init__(self, model: torch.nn.Module, config: TrainConfig, total_steps: int) -> None:
        self.named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.adamw = torch.optim.AdamW(
            decay_groups(self.named, config.weight_decay),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
        )
        self.schedule = get_scheduler(
            config.lr_scheduler_type, self.adamw, num_warmup_steps=config.warmup_steps, num_training_steps=total_steps
        )
        self.max_norm, self.skip_norm = config.max_grad_norm, config.skip_grad_norm
        self.num_bad = 0

    @property
    def learning_rate(self) -> float:
        return float(self.schedule.get_last_lr()[0])

    def step(self) -> StepResult:
        """Clip to `max_grad_norm` and step, unless the norm is not finite or above `skip_grad_norm`; clear the gradients.

        Raises DivergedError after MAX_BAD_STEPS steps in a row with a gradient that is not finite.
        """
        parameters = [parameter for _, parameter in self.named]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.max_norm or torch.inf)
        finite = bool(torch.isfinite(norm))
        taken = finite and (self.skip_norm is None or float(norm) <= self.skip_norm)
        if taken:
            self.adamw.step()
        self.num_bad = 0 if finite else self.num_bad + 1
        self.adamw.zero_grad(set_to_none=True)
        self.schedule.step()
        if self.num_bad == MAX_BAD_STEPS:
            raise DivergedError(
                f"the gradient was not finite in {MAX_BAD_STEPS} steps in a row; the weights are those before: "
                "lower --learning_rate or --max_grad_norm and resume from the last checkpoint"
            )
        return StepResult(float(norm), taken)

    def pass_by(self) -> None:
        """An update with nothing to train on: time goes on, the weights stay."""
        self.schedule.step()

    def tensors(self) -> dict[str, Tensor]:
        """The optimizer's state by parameter name, for safetensors."""
        return {
            f"{name}/{key}": value
            for name, parameter in self.named
            for key, value in self.adamw.state.get(parameter, {}).items()
        }

    def counters(self) -> dict[str, Any]:
        """What is not a tensor: the schedule's position."""
        return {"schedule_step": self.schedule.last_epoch, "num_bad": self.num_bad}

    def restore(self, tensors: dict[str, Tensor], counters: dict[str, Any]) -> None:
        """Continue exactly where `tensors` and `counters` were taken."""
        by_name = dict(self.named)
        for key, value in tensors.items():
            name, _, field = key.rpartition("/")
            self.adamw.state[by_name[name]][field] = value
        self.num_bad = counters["num_bad"]
        self.schedule.last_epoch = counters["schedule_step"] - 1
        self.schedule.step()


def decay_groups(named: Iterable[tuple[str, torch.nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only: norms and biases keep their scale."""
    named = list(named)
    return [
        {"params": [parameter for _, parameter in named if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for _, parameter in named if parameter.ndim < 2], "weight_decay": 0.0},
    ]
