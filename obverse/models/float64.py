"""Runs a model wholly in float64, so that what remains of a difference is an error and not rounding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Float64Mode(TorchFunctionMode):
    """Replaces float32 by float64 in every call of torch: models convert norms, routers and states to float32."""

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.Tensor.float:
            return args[0].double()
        named = {name: _float64_for_float32(value) for name, value in (kwargs or {}).items()}
        return function(*map(_float64_for_float32, args), **named)


def _float64_for_float32(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


@contextmanager
def in_float64(*models: Any) -> Iterator[None]:
    """Compute in float64 inside, so that a difference beyond rounding shows; weights are float32 again afterwards.

    Experts are computed one after another, because torch's grouped matrix product takes no float64.
    """
    experts = [model.get_experts_implementation() for model in models]
    for model in models:
        model.to(torch.float64).set_experts_implementation("eager")
    try:
        with Float64Mode():
            yield
    finally:
        for model, implementation in zip(models, experts, strict=True):
            model.to(torch.float32).set_experts_implementation(implementation)
