"""The layers of a model's cache, and a cache that keeps every position: keys and values, states, indexer keys.

transformers drops keys behind a sliding window. Prompts of unequal lengths in one batch end at the same position, so
that the window of a shorter prompt reaches into keys that only its mask may hide; a cache that keeps all of them is
right for every row, and the mask applies the window.
"""

from __future__ import annotations

import inspect
from typing import Any

from transformers import DynamicCache
from transformers.cache_utils import (
    Cache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
)

# Layers that drop keys, and those that keep the same states and all keys.
KEEPING_ALL_KEYS: dict[type, type] = {
    DynamicSlidingWindowLayer: DynamicLayer,
    LinearAttentionAndSlidingWindowAttentionLayer: LinearAttentionAndFullAttentionLayer,
}


def native_layers(model: Any) -> list[Any]:
    """The layers of the cache that transformers makes for a model; their states are empty."""
    layers: list[Any] = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    return layers


def full_cache(model: Any) -> Cache:
    """An empty cache for a model's forward pass that drops no keys; layers have the classes of transformers."""
    return Cache(layers=[with_all_keys(layer) for layer in native_layers(model)])


def with_all_keys(layer: Any) -> Any:
    """The layer, or an empty one of the class that keeps all keys where its own class would drop some."""
    keeping = KEEPING_ALL_KEYS.get(type(layer))
    if keeping is None:
        return layer
    states = getattr(layer, "number_of_states", None)
    return keeping() if states is None else keeping(number_of_states=states)


def cache_argument(module: Any) -> str:
    """The name under which a forward pass takes its cache: "past_key_values", or "cache_params" (Mamba)."""
    return "cache_params" if accepts(module, "cache_params") else "past_key_values"


def accepts(module: Any, argument: str) -> bool:
    """Whether a forward pass has a parameter of that name; one that it only takes among **kwargs has no effect."""
    return argument in inspect.signature(module.forward).parameters
