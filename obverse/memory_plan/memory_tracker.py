"""Fake tensors, and a dispatch mode that counts the bytes of their live storages and the peak."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operators that return values, which fake tensors do not have. The answer is the one that costs more memory: true.
VALUE_QUERIES = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.allclose.default,
}


class MemoryTracker(TorchDispatchMode):
    """Inside `open()` every tensor is a fake tensor whose storage is counted.

    `live` is the number of bytes of all referenced storages, `peak` its maximum since `mark`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._storages: dict[int, weakref.ref[Any]] = {}

    @contextmanager
    def open(self) -> Iterator[MemoryTracker]:
        with FakeTensorMode(), self:
            yield self

    def mark(self) -> int:
        """Reset the peak to the live bytes, which are returned."""
        self.peak = self.live
        return self.live

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in VALUE_QUERIES:
            return True if function is not torch.ops.aten._local_scalar_dense.default else _true_value(args[0])
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._register(leaf.untyped_storage())
        return out

    def _register(self, storage: Any) -> None:
        key = id(storage)
        if key in self._storages:
            return
        num_bytes = storage.nbytes()

        def release(_: Any) -> None:
            del self._storages[key]
            self.live -= num_bytes

        self._storages[key] = weakref.ref(storage, release)
        self.live += num_bytes
        self.peak = max(self.peak, self.live)


def _true_value(value: torch.Tensor) -> bool | int | float:
    if value.dtype == torch.bool:
        return True
    return 1.0 if value.dtype.is_floating_point else 1
