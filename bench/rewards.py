"""A reward that any text has and hardly two texts share."""

from __future__ import annotations

import zlib
from typing import Any


def uneven(problem: Any, text: str) -> float:
    """A number in [0, 1) that the text alone decides."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) / 2**32
