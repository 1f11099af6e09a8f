"""The decoder layers of a model: the units of gradient checkpointing, of compilation and of the memory plan."""

from __future__ import annotations

from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer

from obverse.distributed.fsdp import outermost


def decoder_layers(model: Any) -> list[Any]:
    """The layers that transformers can checkpoint, in order; a layer inside another one is part of that one.

    A checkpoint inside a checkpoint would not be repeated when the outer one is computed again, and the tensors of the
    two passes would be matched in the wrong order (Zamba2 has a layer of its own type inside its hybrid layers).
    """
    return outermost(model, lambda module: isinstance(module, GradientCheckpointingLayer))
