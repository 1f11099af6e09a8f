"""Standard output without what one thread prints to it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class MutedStream:
    """Forwards everything to `stream`, except writes of the thread that created it."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        """Write `text`, or drop it; returns its length."""
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def muted() -> Iterator[None]:
    """Drop what this thread prints inside the block; other threads print as before.

    sys.stdout is restored only if it is still the stream that was set here: a redirection begun meanwhile stays.
    """
    stream = sys.stdout
    replacement: Any = MutedStream(stream)
    sys.stdout = replacement
    try:
        yield
    finally:
        if sys.stdout is replacement:
            sys.stdout = stream
