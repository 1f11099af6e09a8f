"""Layers of a slot cache: those of transformers, with the tensors of all rows in buffers that the cache owns.

A buffer is [slots, ...]: keys, values and indexer keys have a dimension of positions, convolution and recurrent states
have none. A forward pass sees the rows and positions in use, as views.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import (
    DummyLayer,
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

# The dimension of positions of a buffer; others have none.
POSITIONS = {"keys": 2, "values": 2, "indexer_keys": 1}
STATES = ("conv_states", "recurrent_states")


class SlotLayer(DynamicLayer):
    """Keys and values, [slots, heads, capacity, size] each. `cache` is the SlotCache that the layer belongs to."""

    def __init__(self, cache: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cache = cache
        self.buffers: dict[str, Tensor] = {}

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the states [rows, heads, n, size]; returns the keys and values of all positions in use."""
        return self._append("keys", key_states), self._append("values", value_states)

    def get_seq_length(self) -> int:
        """Positions in use before those of the current forward pass."""
        return int(self.cache.end - self.cache.begin)

    def show(self, num_rows: int) -> None:
        """Make the first rows the ones that a forward pass sees; keys and values need nothing."""

    def _append(self, name: str, states: Tensor) -> Tensor:
        dim = POSITIONS[name]
        rows, number = self.buffers[name][: len(states)], states.shape[dim]
        rows.narrow(dim, self.cache.end, number).copy_(states)
        return rows.narrow(dim, self.cache.begin, self.get_seq_length() + number)


class SlotIndexedLayer(SlotLayer):
    """Keys, values, and the keys of a sparse-attention indexer, [slots, capacity, size]."""

    def update_indexer(self, indexer_key_states: Tensor) -> Tensor:
        """Append indexer keys [rows, n, size]; returns those of all positions in use."""
        return self._append("indexer_keys", indexer_key_states)


class SlotStates(LinearAttentionLayer):
    """Convolution and recurrent states, [slots, ...] each, which forward passes update in place."""

    def __init__(self, cache: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cache = cache
        self.buffers: dict[str, Tensor] = {}

    def show(self, num_rows: int) -> None:
        """Make the first rows the ones that a forward pass sees."""
        for name, buffer in self.buffers.items():
            kind, _, number = name.partition(".")
            if kind in STATES:
                set_layer_tensor(self, name, buffer[:num_rows])
                getattr(self, f"is_{kind}_initialized")[int(number)] = True
                self.has_previous_state[int(number)] = True
                if kind == "conv_states":
                    self.conv_kernel_size[int(number)] = buffer.shape[-1]


class SlotStatesAndKeys(SlotStates, SlotLayer, LinearAttentionAndFullAttentionLayer):
    """States and keys and values of a layer that has both."""

    def __init__(self, cache: Any, **kwargs: Any) -> None:
        LinearAttentionAndFullAttentionLayer.__init__(self, **kwargs)
        self.cache = cache
        self.buffers: dict[str, Tensor] = {}


SLOT_LAYERS: dict[type, Any] = {
    DummyLayer: SlotLayer,
    DynamicIndexedLayer: SlotIndexedLayer,
    DynamicLayer: SlotLayer,
    DynamicSlidingWindowLayer: SlotLayer,
    LinearAttentionAndFullAttentionLayer: SlotStatesAndKeys,
    LinearAttentionAndSlidingWindowAttentionLayer: SlotStatesAndKeys,
    LinearAttentionLayer: SlotStates,
}


def slot_layer(layer: Any, cache: Any) -> Any:
    """An empty slot layer for what a transformers layer keeps; KeyError for a layer that keeps something else."""
    states = getattr(layer, "number_of_states", None)
    return SLOT_LAYERS[type(layer)](cache, **({} if states is None else {"number_of_states": states}))


def layer_tensors(layer: Any) -> dict[str, Tensor]:
    """The tensors of a transformers layer by the name of their buffer; none for a layer that was not used."""
    names = [name for name in POSITIONS if isinstance(getattr(layer, name, None), Tensor)]
    tensors = {name: getattr(layer, name) for name in names}
    for kind in STATES:
        states = getattr(layer, kind, None) or {}
        tensors |= {f"{kind}.{number}": state for number, state in states.items() if state is not None}
    return tensors


def set_layer_tensor(layer: Any, name: str, tensor: Tensor) -> None:
    """Replace a tensor of a transformers layer, by the name that `layer_tensors` gives it."""
    kind, _, number = name.partition(".")
    if number:
        getattr(layer, kind)[int(number)] = tensor
    else:
        setattr(layer, name, tensor)
