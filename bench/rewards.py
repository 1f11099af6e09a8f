"""A reward that is different for almost any two texts."""

from __future__ import annotations

import zlib
from typing import Any


def uneven(problem: Any, text: str) -> float:
    """A number in [0, 1) that depends on the text only."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) / 2**32
