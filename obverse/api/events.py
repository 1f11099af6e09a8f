"""The events of a training run, forwarded to the callbacks of the calling program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from obverse.api.run import Callback, Run
from obverse.errors import ConfigError


class Events:
    """The events of a run, forwarded to several callbacks in their order; a False of one of them counts."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = callbacks

    def train_begin(self, folder: Path) -> None:
        run = Run(folder)
        self._call(lambda callback: callback.on_train_begin(run))

    def step_end(self, step: int, metrics: Mapping[str, Any]) -> object:
        return self._call(lambda callback: callback.on_step_end(step, dict(metrics)))

    def evaluate(self, step: int, figures: Mapping[str, Any]) -> object:
        return self._call(lambda callback: callback.on_evaluate(step, dict(figures)))

    def save(self, step: int, folder: Path) -> None:
        self._call(lambda callback: callback.on_save(step, folder))

    def train_end(self, run: Run) -> None:
        self._call(lambda callback: callback.on_train_end(run))

    def _call(self, call: Callable[[Callback], object]) -> bool | None:
        """Call every callback; returns False if one of them returned False, else None."""
        results = [call(callback) for callback in self.callbacks]
        return False if any(map(_is_false, results)) else None


def _is_false(result: object) -> bool:
    """Whether a callback returned False, of Python or of NumPy; neither None nor 0 is."""
    return type(result).__name__ in ("bool", "bool_") and not result


def events_of(callbacks: Callback | Sequence[Callback] | None) -> Events | None:
    """The events that callbacks receive; None without callbacks. ConfigError for anything that is not a Callback."""
    given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
    for callback in given:
        if not isinstance(callback, Callback):
            is_class = isinstance(callback, type)
            name = callback.__name__ if is_class else type(callback).__name__
            hint = f"give an object, {name}()" if is_class else "derive its class from obverse.Callback"
            raise ConfigError(f"callbacks: {name} is no obverse.Callback: {hint}")
    return Events(given) if given else None
