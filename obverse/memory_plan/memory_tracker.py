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
GROUPED_PRODUCT = torch.ops.aten._grouped_mm.default  # of experts; its fake kernel takes bfloat16 only


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
        out = _grouped_product(*args) if function is GROUPED_PRODUCT else function(*args, **(kwargs or {}))
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


def _grouped_product(left: torch.Tensor, right: torch.Tensor, ends: torch.Tensor | None = None) -> torch.Tensor:
    """An empty tensor of the shape of torch's `_grouped_mm`: `ends` [G] splits the dimension that has no groups."""
    if left.ndim == right.ndim == 2 and ends is not None:
        return left.new_empty(len(ends), left.shape[0], right.shape[1])
    shape = (left.shape[-2], right.shape[-1]) if left.ndim != right.ndim else (*left.shape[:2], right.shape[2])
    return left.new_empty(shape)


def _true_value(value: torch.Tensor) -> bool | int | float:
    if value.dtype == torch.bool:
        return True
    return 1.0 if value.dtype.is_floating_point else 1
