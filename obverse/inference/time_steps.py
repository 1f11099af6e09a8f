"""Time steps of Mamba-2 layers in decoding, limited as in the forward pass over many tokens.

transformers 5.23 clamps them to the layer's `time_step_limit` in its scan over a sequence, but not in its update by a
single token, so that Nemotron-H and Zamba2, whose lower limit is above 0, decode with other log-probs than they train.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn.functional import softplus

from obverse.models.reduced_model import architecture

UPDATE = "mamba2_selective_state_update"  # a function in transformers' model files
UNLIMITED = (0.0, math.inf)


@contextmanager
def limited_time_steps(model: Any) -> Iterator[None]:
    """Inside, updates by a single token clamp time steps as the model's layers do for sequences."""
    limits: dict[Any, tuple[float, float]] = {}
    for module in model.modules():
        limit, kind = getattr(module, "time_step_limit", None), architecture(module)
        if limit is not None and kind is not None and tuple(limit) != UNLIMITED:
            file = sys.modules[kind.__module__]
            if hasattr(file, UPDATE):
                limits[file] = (limit[0], limit[1])
    originals = {file: getattr(file, UPDATE) for file in limits}
    try:
        for file, original in originals.items():
            setattr(file, UPDATE, partial(_limited_update, original, limits[file]))
        yield
    finally:
        for file, original in originals.items():
            setattr(file, UPDATE, original)


def _limited_update(
    update: Callable[..., Tensor],
    limit: tuple[float, float],
    state: Tensor,
    hidden_states: Tensor,
    dt: Tensor,
    *args: Any,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    **kwargs: Any,
) -> Tensor:
    """`update` with time steps `dt` [rows, heads, size] that are computed and clamped before."""
    dt = dt if dt_bias is None else dt + dt_bias.to(dt.dtype)
    dt = (softplus(dt) if dt_softplus else dt).clamp(*limit)
    return update(state, hidden_states, dt, *args, **kwargs)
