"""A cache of prompts whose states carry gradients, from which responses continue by rows.

Besides keys and values a cache may hold convolution states, recurrent states, indexer keys or compressed keys. All of
them are tensors with one row per prompt, so that a response continues from a copy of its prompt's row, and gradients
flow back through that copy.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from obverse.models.cache_layers import full_cache

# Tensors of cache layers with the rows in dimension 1; in all other ones these are dimension 0.
ROWS_IN_DIMENSION_1 = ("indexer_position_ids",)


class StateLayer(LinearAttentionLayer):
    """Convolution and recurrent states that are replaced by new tensors.

    transformers' class copies into the previous state, which autograd refuses once that state was saved for the
    backward pass.
    """

    def update_conv_state(
        self, conv_states: Tensor, state_idx: int = 0, conv_kernel_size: int | None = None, **kwargs: Any
    ) -> Tensor:
        """The inputs [B, C, L] behind those in the state, [B, C, K + L]; the last K of them are the new state."""
        if self.has_previous_state[state_idx]:
            size = self.conv_kernel_size[state_idx]
            inputs = torch.cat([self.conv_states[state_idx], conv_states], dim=-1)
        else:
            size = conv_kernel_size or conv_states.shape[-1]
            inputs = pad(conv_states, (max(0, size - conv_states.shape[-1]), 0))
            self.dtype, self.device = conv_states.dtype, conv_states.device
            self.conv_kernel_size[state_idx] = size
            self.is_conv_states_initialized[state_idx] = self.has_previous_state[state_idx] = True
        self.conv_states[state_idx] = inputs[..., -size:]
        return inputs

    def update_recurrent_state(self, recurrent_states: Tensor, state_idx: int = 0, **kwargs: Any) -> Tensor:
        self.is_recurrent_states_initialized[state_idx] = True
        self.recurrent_states[state_idx] = recurrent_states
        return recurrent_states


class StateAndKeyLayer(StateLayer, LinearAttentionAndFullAttentionLayer):
    """A `StateLayer` with keys and values of all positions."""


DIFFERENTIABLE: dict[type, type] = {
    LinearAttentionLayer: StateLayer,
    LinearAttentionAndFullAttentionLayer: StateAndKeyLayer,
}


def prompt_cache(model: Any) -> Cache:
    """An empty cache for a forward pass over prompts: it keeps all keys, and no state is changed in place."""
    layers = []
    for layer in full_cache(model).layers:
        kind = DIFFERENTIABLE.get(type(layer))
        layers.append(layer if kind is None else kind(number_of_states=layer.number_of_states))
    return Cache(layers=layers)


def has_states(cache: Cache) -> bool:
    """Whether a layer keeps a state of fixed size, which passes over one token update in place."""
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers)


def state_tensors(cache: Any) -> list[Tensor]:
    """All tensors of a cache, in the order of `with_rows`."""
    tensors: list[Tensor] = []

    def collect(name: str, tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    _copied(cache, collect)
    return tensors


def with_rows(cache: Any, tensors: list[Tensor], rows: Tensor, num_rows: int) -> Any:
    """A copy of a cache of `num_rows` rows in which `tensors` replace those of `state_tensors`, at the rows `rows` [B].

    Tensors without rows, such as the length of a window, are not indexed.
    """
    remaining = iter(tensors)

    def select(name: str, _: Tensor) -> Tensor:
        tensor, dimension = next(remaining), int(name in ROWS_IN_DIMENSION_1)
        if tensor.ndim <= dimension or tensor.shape[dimension] != num_rows:
            return tensor
        return tensor[:, rows] if dimension else tensor[rows]

    return _copied(cache, select)


def _copied(value: Any, replace: Callable[[str, Tensor], Tensor], name: str = "") -> Any:
    """A copy of a cache, a layer or a container, with each tensor replaced by `replace(name of attribute, tensor)`."""
    if isinstance(value, Tensor):
        return replace(name, value)
    if isinstance(value, dict):
        return {key: _copied(item, replace, name) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item, replace, name) for item in value]
    if isinstance(value, Cache | CacheLayerMixin | LinearAttentionCacheLayerMixin | DummyLayer):
        duplicate = copy(value)
        vars(duplicate).update({key: _copied(item, replace, key) for key, item in vars(value).items()})
        return duplicate
    return value
