"""A right-aligned cache in which rows are added, copied and removed in place."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from obverse.inference.slot_layers import POSITIONS, SLOT_LAYERS, layer_tensors, slot_layer
from obverse.models.cache_layers import native_layers

SPARE = 64  # positions and rows allocated in advance: growing copies everything


class SlotCache(Cache):
    """Rows that all end at the same position, each `lengths[row]` long; positions before a row must be masked.

    A row is one history of tokens. Sliding-window layers store all positions too, and their mask applies the window.
    All memory from `begin`, where the longest row starts, to `end` is initialized: a masked value is multiplied by 0,
    and 0 times NaN would be NaN. `native` are the layers of transformers' cache for the model (`native_layers`).
    """

    def __init__(self, native: Sequence[Any]) -> None:
        cache: Any = weakref.proxy(self)  # a reference cycle would keep the memory until garbage collection
        super().__init__(layers=[slot_layer(layer, cache) for layer in native])
        self.lengths: list[int] = []
        self.slots = self.capacity = self.begin = self.end = 0

    def append_rows(self, prefilled: Cache, lengths: Sequence[int]) -> None:
        """Append rows of these lengths from `prefilled`, in which a model has left them right-aligned."""
        first, width = len(self.lengths), max(lengths)
        rows = first + len(lengths)
        tensors = [layer_tensors(layer) for layer in prefilled.layers]
        self._reserve(tensors, rows, before=width)
        start, begin = self.end - width, min(self.begin, self.end - width)
        for layer, named in zip(self.layers, tensors, strict=True):
            for name, states in named.items():
                buffer = layer.buffers[name]
                if name not in POSITIONS:
                    buffer[first:rows] = states
                    continue
                positions = buffer.movedim(POSITIONS[name], 1)  # [slots, capacity, ...]
                positions[:first, begin : self.begin] = 0
                positions[first:rows, begin:start] = 0
                positions[first:rows, start : self.end] = states.movedim(POSITIONS[name], 1)
        self.begin = begin
        self.lengths += lengths

    def copy_rows(self, sources: list[int], targets: list[int], num_rows: int) -> None:
        """Copy rows `sources` to `targets`, of which none is a source, and keep the first `num_rows` rows."""
        if targets:
            self.lengths += [0] * (max(targets) + 1 - len(self.lengths))
            for source, target in zip(sources, targets, strict=True):
                self.lengths[target] = self.lengths[source]
            self._reserve([layer.buffers for layer in self.layers], len(self.lengths))
            for layer in self.layers:
                for name, buffer in layer.buffers.items():
                    in_use = self._in_use(name, buffer)
                    in_use[targets] = in_use[sources]
        del self.lengths[num_rows:]

    def next_position(self) -> tuple[Tensor | None, Tensor]:
        """Reserve one more position. Returns its mask [rows, length], None if nothing is masked, and its ids [rows, 1].

        Both are on the CPU. States hold no padding, so a cache of states alone masks nothing. Call `advance` after the
        forward pass that writes the position.
        """
        longest = max(self.lengths)
        self.begin = self.end - longest
        self._reserve([layer.buffers for layer in self.layers], len(self.lengths), after=1)
        for layer in self.layers:
            layer.show(len(self.lengths))
        lengths = torch.tensor(self.lengths)[:, None]
        if min(self.lengths) == longest or not self._has_positions():
            return None, lengths
        return torch.arange(longest + 1) >= longest - lengths, lengths

    def advance(self) -> None:
        """Make every row one position longer."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def num_bytes(self) -> int:
        """Bytes of all buffers."""
        buffers = [buffer for layer in self.layers for buffer in layer.buffers.values()]
        return sum(buffer.numel() * buffer.element_size() for buffer in buffers)

    def _has_positions(self) -> bool:
        return any(name in POSITIONS for layer in self.layers for name in layer.buffers)

    def _in_use(self, name: str, buffer: Tensor) -> Tensor:
        """The positions of a buffer that are in use; [slots, ...]."""
        dim = POSITIONS.get(name)
        return buffer if dim is None else buffer.narrow(dim, self.begin, self.end - self.begin)

    def _reserve(self, like: Sequence[dict[str, Tensor]], slots: int, before: int = 0, after: int = 0) -> None:
        """Allocate `slots` rows, `before` positions up to the end and `after` behind it, for tensors like `like`'s."""
        if slots <= self.slots and before <= self.end and self.end + after <= self.capacity:
            return
        begin, length, more_slots = self.begin, self.end - self.begin, slots > self.slots
        if more_slots:
            self.slots = max(slots, min(2 * self.slots, self.slots + SPARE))
        self.begin = max(before - length, 0)
        self.capacity = self.begin + length + after + SPARE
        for layer, tensors in zip(self.layers, like, strict=True):
            for name, tensor in list(tensors.items()):
                dim, old = POSITIONS.get(name), layer.buffers.get(name)
                if dim is None and old is not None and not more_slots:
                    continue
                shape = [self.slots, *tensor.shape[1:]]
                if dim is not None:
                    shape[dim] = self.capacity
                buffer = layer.buffers[name] = tensor.new_empty(shape)
                if old is None:
                    continue
                old, rows = old[: len(self.lengths)], buffer[: len(self.lengths)]
                if dim is not None:
                    old, rows = old.narrow(dim, begin, length), rows.narrow(dim, self.begin, length)
                rows[: len(old)] = old
            layer.is_initialized = True
        self.end = self.begin + length


def can_keep(model: Any) -> bool:
    """Whether a slot cache has layers for all that a model's cache keeps."""
    try:
        layers = native_layers(model)
    except (AttributeError, KeyError):  # no number of layers (BLT, whose parts have one each), or an unknown kind
        return False
    return all(type(layer) in SLOT_LAYERS for layer in layers)
