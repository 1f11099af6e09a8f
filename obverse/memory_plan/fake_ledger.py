"""Tensors without numbers, and a ledger of their bytes: what lives, and the most that lived at once."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Questions about numbers, which no shadow has. Yes is the answer that costs memory: finite, equal, still to be added.
ASKED = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.allclose.default,
}


class Ledger(TorchDispatchMode):
    """Inside `open()` every tensor is a shadow: it has a shape, a type and a place in this ledger.

    `live` is the bytes of all storages that somebody still holds, `peak` the most since `mark`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._held: dict[int, weakref.ref[Any]] = {}

    @contextmanager
    def open(self) -> Iterator[Ledger]:
        with FakeTensorMode(), self:
            yield self

    def mark(self) -> int:
        """Begin a phase: its peak starts at what lives now, which is returned."""
        self.peak = self.live
        return self.live

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in ASKED:
            return True if function is not torch.ops.aten._local_scalar_dense.default else _yes(args[0])
        out = function(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, torch.Tensor):
                self._enter(each.untyped_storage())
        return out

    def _enter(self, storage: Any) -> None:
        key = id(storage)
        if key in self._held:
            return
        num_bytes = storage.nbytes()

        def leave(_: Any) -> None:
            del self._held[key]
            self.live -= num_bytes

        self._held[key] = weakref.ref(storage, leave)
        self.live += num_bytes
        self.peak = max(self.peak, self.live)


def _yes(value: torch.Tensor) -> bool | int | float:
    if value.dtype == torch.bool:
        return True
    return 1.0 if value.dtype.is_floating_point else 1
