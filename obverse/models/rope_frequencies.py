"""Lengths at which the rotary frequencies of a whole row change, from a model's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def frequency_switches(config: Any) -> tuple[tuple[int, ...], int | None]:
    """The lengths at which a configuration's rotary frequencies change, and the limit of dynamic RoPE (or None).

    A row longer than a switch has different frequencies at all its positions (LongRoPE). Beyond the limit the
    frequencies depend on earlier forward passes (dynamic RoPE).
    """
    text = config.get_text_config(decoder=True)
    switches: set[int] = set()
    limit = None
    for rope in rope_dicts(text):
        kind = str(rope.get("rope_type", "default"))
        if kind == "longrope":
            original = "original_max_position_embeddings"
            switches.add(int(rope.get(original) or getattr(text, original)))
        elif "dynamic" in kind:
            limit = int(text.max_position_embeddings)
    return tuple(sorted(switches)), limit


def longest_sampled(config: Any) -> int | None:
    """The longest row, in tokens, for which a key-value cache equals a plain forward pass; None: no limit."""
    switches, limit = frequency_switches(config)
    return min([*switches, *([] if limit is None else [limit])], default=None)


def rope_dicts(text: Any) -> Iterator[dict[str, Any]]:
    """The rotary parameters of a text configuration: one dict for all layers, or one per layer type."""
    rope = getattr(text, "rope_parameters", None)
    if not isinstance(rope, dict):
        return
    inner = [value for value in rope.values() if isinstance(value, dict)]
    yield from inner or [rope]
