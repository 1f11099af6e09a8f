"""Lengths at which the rotary frequencies of a whole row change, from a model's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def spans(config: Any) -> tuple[tuple[int, ...], int | None]:
    """Of a configuration's rotary parameters: the switches, and the limit or None.

    A row longer than a switch has other frequencies in all its positions (LongRoPE); beyond the limit they depend on
    what was read before (dynamic RoPE).
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
    """Tokens up to which a row read from a cache is what a plain forward of it gives; None: any number."""
    switches, limit = spans(config)
    return min([*switches, *([] if limit is None else [limit])], default=None)


def rope_dicts(text: Any) -> Iterator[dict[str, Any]]:
    """The rotary parameters of a text configuration: of all layers, or one each for every kind of layer."""
    rope = getattr(text, "rope_parameters", None)
    if not isinstance(rope, dict):
        return
    inner = [each for each in rope.values() if isinstance(each, dict)]
    yield from inner or [rope]
