"""A key-value cache with room to grow: transformers' own copies all of it for every token."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 64  # positions allocated ahead


class RoomyLayer(DynamicLayer):
    """A DynamicLayer whose keys and values [B, heads, length, size] are the front of larger buffers."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the states [B, heads, n, size]; returns all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.key_buffer, self.value_buffer = key_states[:, :, :0], value_states[:, :, :0]
        start, end = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        if end > self.key_buffer.shape[-2]:
            self.key_buffer = with_room(self.key_buffer[:, :, :start], key_states, end + ROOM)
            self.value_buffer = with_room(self.value_buffer[:, :, :start], value_states, end + ROOM)
        self.key_buffer[:, :, start:end] = key_states
        self.value_buffer[:, :, start:end] = value_states
        self.keys, self.values = self.key_buffer[:, :, :end], self.value_buffer[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows `indices`; a row may be named several times (a prompt for each of its completions)."""
        length = self.get_seq_length()
        self.key_buffer, self.value_buffer = self.key_buffer[indices], self.value_buffer[indices]
        self.keys, self.values = self.key_buffer[:, :, :length], self.value_buffer[:, :, :length]


def with_room(old: Tensor, like: Tensor, length: int) -> Tensor:
    """A buffer [B, heads, length, size] of the kind of `like` that begins with `old`."""
    rows, heads, _, size = like.shape
    buffer = like.new_empty(rows, heads, length, size)
    buffer[:, :, : old.shape[-2]] = old
    return buffer


def roomy_cache(model: Any) -> DynamicCache:
    """The model's cache with room to grow in its plain layers; sliding windows and others stay as they are."""
    cache = DynamicCache(config=model.config.get_text_config())
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
