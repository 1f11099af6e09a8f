"""The longest input of a model: the size of its position embedding table, if it has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

UNREADABLE = (RuntimeError, IndexError, ValueError, TypeError, AttributeError)
PROBES = (4, 6)  # lengths of the test inputs, in tokens
LOOKUPS = {
    "embedding": (0, 1),
    "index_select": (0, 2),
    "gather": (0, 2),
    "index": (0, 1),
}  # argument positions of table and index


class Lookups(TorchDispatchMode):
    """Records the largest row index of every table lookup while active, by operator, table shape and dimension."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest: dict[tuple[Any, ...], int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in LOOKUPS and len(args) > max(LOOKUPS[name]):
            table, index = (args[position] for position in LOOKUPS[name])
            along = args[1] if name in ("index_select", "gather") else 0
            if name == "index":
                along = next((dim for dim, indices in enumerate(index) if indices is not None), 0)
                index = index[along]
            is_plain = isinstance(index, Tensor) and not index.is_meta and not index.is_floating_point()
            if is_plain and index.dtype is not torch.bool and index.numel():
                key = (name, tuple(table.shape), along)
                self.largest[key] = max(self.largest.get(key, -1), int(index.max()))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def num_positions(model: Any) -> int | None:
    """The longest input of a model, in tokens; None without a limit, as with rotary positions.

    Found by two forward passes of different lengths: a lookup whose largest row grows with the length, in a table of
    constant size, is a table of positions. Offsets into the table are accounted for.
    """
    decoder, largest_rows = _decoder(model), []
    for length in PROBES:
        with Lookups() as lookups, suppress(*UNREADABLE):  # without a forward pass the limit is unknown
            decoder(input_ids=torch.ones(1, length, dtype=torch.long, device=model.device), use_cache=False)
        largest_rows.append(lookups.largest)
    short, long = largest_rows
    step = PROBES[1] - PROBES[0]
    limits = [
        key[1][key[2]] - (short[key] - PROBES[0] + 1)
        for key in short.keys() & long.keys()
        if long[key] - short[key] == step
    ]
    return min(limits, default=None)


def rated_positions(model: Any) -> int | None:
    """The longest input that the model's configuration declares, in tokens, or None."""
    config = model.config.get_text_config()
    length = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    return int(length) if isinstance(length, int) and length > 0 else None


@torch.no_grad()
def can_read(model: Any, length: int, limit: int | None) -> bool:
    """Whether a forward pass of `length` tokens succeeds, although `num_positions` is only `limit`.

    Some tables grow on demand. On an accelerator nothing is tried beyond `limit`: an index error there would make the
    device unusable for the rest of the process.
    """
    if limit is not None and model.device.type != "cpu":
        return False
    try:
        _decoder(model)(input_ids=torch.ones(1, length, dtype=torch.long, device=model.device), use_cache=False)
    except torch.OutOfMemoryError:
        raise
    except UNREADABLE:
        return False
    return True


def _decoder(model: Any) -> Any:
    return model.base_model if model.get_output_embeddings() is None else model.get_decoder()
