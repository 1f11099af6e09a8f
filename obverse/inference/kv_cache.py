"""A right-aligned key-value cache in which rows are added, copied and removed in place."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from obverse.errors import ConfigError

SPARE = 64  # positions and rows allocated in advance: growing copies everything


class SlotLayer(DynamicLayer):
    """One layer's keys and values, [slots, heads, capacity, size]; the model sees the rows and positions in use."""

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self.cache: Any = weakref.proxy(cache)  # a reference cycle would keep the memory until garbage collection

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the states [rows, heads, n, size]; returns the keys and values of all positions in use."""
        rows, end = len(key_states), self.cache.end + key_states.shape[-2]
        self.keys[:rows, :, self.cache.end : end] = key_states
        self.values[:rows, :, self.cache.end : end] = value_states
        window = slice(self.cache.begin, end)
        return self.keys[:rows, :, window], self.values[:rows, :, window]

    def get_seq_length(self) -> int:
        """Positions in use before those of the current forward pass."""
        return self.cache.end - self.cache.begin


class SlotCache(Cache):
    """Rows that all end at the same position, each `lengths[row]` long; positions before a row must be masked.

    A row is one history of tokens. Sliding-window layers store all positions too, and their mask applies the window.
    All memory from `begin`, where the longest row starts, to `end` is initialized: a masked value is multiplied by 0,
    and 0 times NaN would be NaN.
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__(layers=[SlotLayer(self) for _ in range(num_layers)])
        self.lengths: list[int] = []
        self.slots = self.capacity = self.begin = self.end = 0

    def append_rows(self, prefilled: Cache, lengths: Sequence[int]) -> None:
        """Append rows of these lengths from `prefilled`, in which a model has left them right-aligned."""
        first, width = len(self.lengths), max(lengths)
        rows = first + len(lengths)
        self._reserve(prefilled, rows, before=width)
        start, begin = self.end - width, min(self.begin, self.end - width)
        for buffer, states in self._states(prefilled):
            buffer[:first, :, begin : self.begin] = 0
            buffer[first:rows, :, begin:start] = 0
            buffer[first:rows, :, start : self.end] = states
        self.begin = begin
        self.lengths += lengths

    def copy_rows(self, sources: list[int], targets: list[int], num_rows: int) -> None:
        """Copy rows `sources` to `targets`, of which none is a source, and keep the first `num_rows` rows."""
        if targets:
            self.lengths += [0] * (max(targets) + 1 - len(self.lengths))
            for source, target in zip(sources, targets, strict=True):
                self.lengths[target] = self.lengths[source]
            self._reserve(self, len(self.lengths))
            for buffer, _ in self._states(self):
                window = buffer[:, :, self.begin : self.end]
                window[targets] = window[sources]
        del self.lengths[num_rows:]

    def next_position(self) -> tuple[Tensor | None, Tensor]:
        """Reserve one more position. Returns its mask [rows, length], None if nothing is masked, and its ids [rows, 1].

        Both are on the CPU. Call `advance` after the forward pass that writes the position.
        """
        longest = max(self.lengths)
        self.begin = self.end - longest
        self._reserve(self, len(self.lengths), after=1)
        lengths = torch.tensor(self.lengths)[:, None]
        if min(self.lengths) == longest:
            return None, lengths
        return torch.arange(longest + 1) >= longest - lengths, lengths

    def advance(self) -> None:
        """Make every row one position longer."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def _states(self, source: Cache) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys, then values of every layer, each with those of `source`; layers that reuse another's have none."""
        for layer, source_layer in zip(self.layers, source.layers, strict=True):
            if source_layer.is_initialized:
                yield layer.keys, source_layer.keys
                yield layer.values, source_layer.values

    def _reserve(self, like: Cache, slots: int, before: int = 0, after: int = 0) -> None:
        """Allocate `slots` rows, `before` positions up to the end and `after` behind it, in tensors like `like`'s."""
        if slots <= self.slots and before <= self.end and self.end + after <= self.capacity:
            return
        begin, length = self.begin, self.end - self.begin
        self.begin = max(before - length, 0)
        self.capacity = self.begin + length + after + SPARE
        if slots > self.slots:
            self.slots = max(slots, min(2 * self.slots, self.slots + SPARE))
        for layer, like_layer in zip(self.layers, like.layers, strict=True):
            if not like_layer.is_initialized:
                continue
            for name in ("keys", "values"):
                _, heads, _, size = getattr(like_layer, name).shape
                buffer = getattr(like_layer, name).new_empty(self.slots, heads, self.capacity, size)
                if layer.is_initialized:
                    old = getattr(layer, name)[: len(self.lengths), :, begin : self.end]
                    buffer[: len(old), :, self.begin : self.begin + length] = old
                setattr(layer, name, buffer)
            layer.is_initialized = True
        self.end = self.begin + length


def num_layers(model: Any) -> int:
    """Layers of a model's cache; ConfigError for a model whose layers cache more than keys and values."""
    config = model.config.get_text_config(decoder=True)
    layers = DynamicCache(config=config).layers
    if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer) for layer in layers):
        raise ConfigError(
            f"models of type {config.model_type!r} cannot be sampled here: some layers keep more than keys and values"
        )
    return len(layers)


def prefill_cache(num_layers: int) -> Cache:
    """An empty cache that stores all positions of all layers, for the prompts' forward pass."""
    return Cache(layers=[DynamicLayer() for _ in range(num_layers)])
