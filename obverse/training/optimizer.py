"""AdamW with a learning-rate schedule, gradient clipping, and rules for steps that are skipped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import get_scheduler

from obverse.config.train import TrainConfig
from obverse.distributed.fsdp import from_local_rows, fsdp_root, is_sharded_tensor, local_rows, reshard, row_range
from obverse.distributed.sharded_safetensors import ShardedTensors
from obverse.errors import DivergedError

# A step with a gradient that is not finite is skipped; this many in a row end the run.
MAX_BAD_STEPS = 3


@dataclass
class StepResult:
    grad_norm: float  # before clipping
    taken: bool


class Optimizer:
    """AdamW over the trainable parameters with the run's schedule; one `step` per update, taken or skipped.

    Of a model sharded by FSDP each rank updates its rows; all ranks call the same methods in the same order.
    """

    def __init__(
        self, model: torch.nn.Module, config: TrainConfig, total_steps: int, learning_rate: float | None = None
    ) -> None:
        peak = config.learning_rate or 0.0 if learning_rate is None else learning_rate
        reshard(model)
        self.model = model
        self.named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.adamw = torch.optim.AdamW(
            decay_groups(self.named, config.weight_decay),
            lr=peak,
            betas=(config.adam_beta1, config.adam_beta2),
            eps=config.adam_epsilon,
            # one kernel over weight, gradient and moments instead of a dozen
            fused=all(parameter.device.type in ("cpu", "cuda") for _, parameter in self.named),
        )
        warmup = config.warmup_steps
        num_warmup_steps = int(warmup) if warmup >= 1 else math.ceil(warmup * total_steps)
        schedule = get_scheduler(
            config.lr_scheduler_type, self.adamw, num_warmup_steps=num_warmup_steps, num_training_steps=total_steps
        )
        # the rate is a function of the step alone, so the schedule has no state to restore
        self.peak, self.factor = peak, schedule.lr_lambdas[0]
        self.max_norm, self.skip_norm = config.max_grad_norm, config.skip_grad_norm
        self.num_steps = 0
        self.num_bad = 0

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(self.peak * self.factor(self.num_steps))

    def step(self, is_finite: bool = True) -> StepResult:
        """Clip to `max_grad_norm` and step, unless the norm is not finite or above `skip_grad_norm`; clear gradients.

        `is_finite`: whether the loss is; its gradient may be finite even if it is not. Raises DivergedError after
        MAX_BAD_STEPS steps in a row that were not finite.
        """
        reshard(self.model)  # frees gathered weights, which would be outdated after the step
        parameters = [parameter for _, parameter in self.named]
        norm = self._clip(parameters)
        finite = is_finite and bool(torch.isfinite(norm))
        taken = finite and (self.skip_norm is None or float(norm) <= self.skip_norm)
        if taken:
            for group in self.adamw.param_groups:
                group["lr"] = self.learning_rate
            self.adamw.step()
        self.num_bad = 0 if finite else self.num_bad + 1
        self.adamw.zero_grad(set_to_none=True)
        self.num_steps += 1
        if self.num_bad == MAX_BAD_STEPS:
            raise DivergedError(
                f"the loss or its gradient was not finite in {MAX_BAD_STEPS} steps in a row; the weights are those "
                "before: lower --learning_rate or --max_grad_norm and resume from the last checkpoint"
            )
        return StepResult(float(norm), taken)

    def _clip(self, parameters: list[torch.nn.Parameter]) -> Tensor:
        """Scale the gradients to a norm of at most `max_norm`; returns the norm before."""
        root, largest = fsdp_root(self.model), self.max_norm or torch.inf
        if root is None:
            return torch.nn.utils.clip_grad_norm_(parameters, largest)
        gradients = [local_rows(parameter.grad) for parameter in parameters if parameter.grad is not None]
        square = torch.nn.utils.get_total_norm(gradients).double() ** 2  # of this rank's rows
        norm = root.options.process_group.sum(square).sqrt()
        torch._foreach_mul_(gradients, float((largest / (norm + 1e-6)).clamp(max=1.0)))
        return norm

    def zero_grad_step(self) -> None:
        """Set all gradients to zero: the moments decay, and the weights still move by them."""
        for _, parameter in self.named:
            parameter.grad = torch.zeros_like(parameter)

    def skip_step(self) -> None:
        """Advance the schedule without an update: the weights and moments stay."""
        self.num_steps += 1

    def free_state(self) -> None:
        """Free the memory of the moments; the optimizer takes no step afterwards."""
        self.adamw.state.clear()

    def tensors(self) -> dict[str, Tensor]:
        """The optimizer's state by `parameter/key`, for safetensors; of this rank's rows under FSDP."""
        return {
            f"{name}/{key}": value
            for name, parameter in self.named
            for key, value in self.adamw.state.get(parameter, {}).items()
        }

    def counters(self) -> dict[str, int]:
        """The number of steps, and of the last steps in a row that were not finite."""
        return {"num_steps": self.num_steps, "num_bad": self.num_bad}

    def restore(self, tensors: Mapping[str, Tensor], counters: dict[str, int]) -> None:
        """Restore the state of `tensors()` and `counters()`; of files only this rank's rows are read."""
        by_name = dict(self.named)
        for key in tensors:
            name, _, field = key.rpartition("/")
            parameter = by_name[name]
            if field != "step" and is_sharded_tensor(parameter):
                if isinstance(tensors, ShardedTensors):
                    local = tensors.rows(key, *row_range(parameter))
                else:
                    local = local_rows(tensors[key])
                self.adamw.state[parameter][field] = from_local_rows(parameter, local)
            else:
                self.adamw.state[parameter][field] = tensors[key].to(parameter.device)
        self.num_steps, self.num_bad = counters["num_steps"], counters["num_bad"]


def decay_groups(named: Iterable[tuple[str, torch.nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups with weight decay on matrices only, not on norms and biases."""
    named = list(named)
    return [
        {"params": [parameter for _, parameter in named if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for _, parameter in named if parameter.ndim < 2], "weight_decay": 0.0},
    ]
