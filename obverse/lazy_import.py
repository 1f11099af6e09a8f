"""Objects of modules that are imported when they are first needed: importing torch takes seconds."""

from __future__ import annotations

import importlib
from typing import Any


def load(target: str) -> Any:
    """The object `module:name`; the module is imported by this call if it has not been yet.

    Example:
        load("obverse.training.loop:train")
    """
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
