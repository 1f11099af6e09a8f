"""A key-value cache in which rows come, split and go: right-aligned, written in place, trimmed to its longest row."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from obverse.errors import ConfigError

ROOM = 64  # positions and rows allocated ahead: growing copies everything


class SlotLayer(DynamicLayer):
    """One layer's keys and values, [slots, heads, capacity, size]; the model sees the rows and positions in use."""

    def __init__(self, owner: Slots) -> None:
        super().__init__()
        self.owner: Any = weakref.proxy(owner)  # in a circle the memory would wait for the garbage collector

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the states [rows, heads, n, size]; returns the keys and values of all positions in use."""
        rows, end = len(key_states), self.owner.end + key_states.shape[-2]
        self.keys[:rows, :, self.owner.end : end] = key_states
        self.values[:rows, :, self.owner.end : end] = value_states
        window = slice(self.owner.begin, end)
        return self.keys[:rows, :, window], self.values[:rows, :, window]

    def get_seq_length(self) -> int:
        """Positions in use before what is being written."""
        return self.owner.end - self.owner.begin


class Slots(Cache):
    """Rows that all end at the same position, each `lengths[row]` long; what lies before a row is to be masked.

    A row is one history of tokens. Sliding layers keep everything too: their mask cuts. From `begin`, where the longest
    row starts, to `end` all memory is filled: a masked value counts 0 times, and 0 times NaN would be NaN.
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__(layers=[SlotLayer(self) for _ in range(num_layers)])
        self.lengths: list[int] = []
        self.slots = self.capacity = self.begin = self.end = 0

    def take(self, filled: Cache, lengths: Sequence[int]) -> None:
        """Append rows of these lengths, as a model has left them, right-aligned, in `filled`."""
        first, width = len(self.lengths), max(lengths)
        rows = first + len(lengths)
        self._reserve(filled, rows, before=width)
        start, begin = self.end - width, min(self.begin, self.end - width)
        for mine, states in self._states(filled):
            mine[:first, :, begin : self.begin] = 0
            mine[first:rows, :, begin:start] = 0
            mine[first:rows, :, start : self.end] = states
        self.begin = begin
        self.lengths += lengths

    def move(self, sources: list[int], targets: list[int], num_rows: int) -> None:
        """Copy rows onto others, of which none is a source, and keep the first `num_rows`."""
        if targets:
            self.lengths += [0] * (max(targets) + 1 - len(self.lengths))
            for source, target in zip(sources, targets, strict=True):
                self.lengths[target] = self.lengths[source]
            self._reserve(self, len(self.lengths))
            for mine, _ in self._states(self):
                window = mine[:, :, self.begin : self.end]
                window[targets] = window[sources]
        del self.lengths[num_rows:]

    def ready(self) -> tuple[Tensor | None, Tensor]:
        """Room for one more position: its mask [rows, length] (None: all is seen) and its place in every row [rows, 1].

        Both stand on the CPU. Call `grow` once the model has written.
        """
        longest = max(self.lengths)
        self.begin = self.end - longest
        self._reserve(self, len(self.lengths), after=1)
        lengths = torch.tensor(self.lengths)[:, None]
        if min(self.lengths) == longest:
            return None, lengths
        return torch.arange(longest + 1) >= longest - lengths, lengths

    def grow(self) -> None:
        """Every row is one position longer."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def _states(self, like: Cache) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys, then values of every layer, each beside those of `like`; layers that share another's have none."""
        for mine, theirs in zip(self.layers, like.layers, strict=True):
            if theirs.is_initialized:
                yield mine.keys, theirs.keys
                yield mine.values, theirs.values

    def _reserve(self, like: Cache, slots: int, before: int = 0, after: int = 0) -> None:
        """Make room for `slots` rows, `before` positions up to the end, `after` behind it; in tensors like `like`'s."""
        if slots <= self.slots and before <= self.end and self.end + after <= self.capacity:
            return
        begin, length = self.begin, self.end - self.begin
        self.begin = max(before - length, 0)
        self.capacity = self.begin + length + after + ROOM
        if slots > self.slots:
            self.slots = max(slots, min(2 * self.slots, self.slots + ROOM))
        for mine, theirs in zip(self.layers, like.layers, strict=True):
            if not theirs.is_initialized:
                continue
            for name in ("keys", "values"):
                _, heads, _, size = getattr(theirs, name).shape
                buffer = getattr(theirs, name).new_empty(self.slots, heads, self.capacity, size)
                if mine.is_initialized:
                    old = getattr(mine, name)[: len(self.lengths), :, begin : self.end]
                    buffer[: len(old), :, self.begin : self.begin + length] = old
                setattr(mine, name, buffer)
            mine.is_initialized = True
        self.end = self.begin + length


def num_layers(model: Any) -> int:
    """Layers of a model's cache; ConfigError for a model whose layers keep anything but keys and values."""
    config = model.config.get_text_config(decoder=True)
    layers = DynamicCache(config=config).layers
    if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer) for layer in layers):
        raise ConfigError(
            f"models of type {config.model_type!r} cannot be sampled here: some layers keep more than keys and values"
        )
    return len(layers)


def blank(num_layers: int) -> Cache:
    """An empty cache that keeps everything, for prompts."""
    return Cache(layers=[DynamicLayer() for _ in range(num_layers)])
