"""Runs a model wholly in float64, so that what remains of a difference is an error and not rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from obverse.models.load import with_plain_experts


class _Float64(TorchFunctionMode):
    """Replaces float32 by float64 wherever a function is called with it: many layers compute in float32 whatever the
    type of their weights."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.Tensor.float:
            return args[0].double()
        wide = [torch.float64 if argument is torch.float32 else argument for argument in args]
        named = {name: torch.float64 if value is torch.float32 else value for name, value in (kwargs or {}).items()}
        return function(*wide, **named)


@contextmanager
def in_float64(model: Any) -> Iterator[Any]:
    """The model with weights and all computations in float64; its weights are float32 again afterwards."""
    with_plain_experts(model.to(torch.float64))  # the grouped product of experts has no float64 kernel
    try:
        with _Float64():
            yield model
    finally:
        model.to(torch.float32)
