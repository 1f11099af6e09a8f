"""Post-training of language models: SFT and RL as one gradient estimator.

    import obverse

    run = obverse.train("hpt", model="embedded", dataset="arithmetic:1-6", max_steps=50)
    run.metrics["reward"]
    (report,) = run.evaluate(dataset="arithmetic:4-6")

Importing the package imports no torch: every name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from obverse.version import __version__

if TYPE_CHECKING:
    from obverse.api.coefficients import coefficients
    from obverse.api.compare import compare
    from obverse.api.evaluate import evaluate
    from obverse.api.loss import loss
    from obverse.api.method_entries import method_table
    from obverse.api.run import Callback, Run, load_run
    from obverse.api.train import train
    from obverse.estimator.formula import Term
    from obverse.estimator.method import Method
    from obverse.methods import find

__all__ = [
    "Callback",
    "Method",
    "Run",
    "Term",
    "__version__",
    "coefficients",
    "compare",
    "evaluate",
    "find",
    "load_run",
    "loss",
    "method_table",
    "train",
]

MODULES = {
    "Callback": "obverse.api.run",
    "Method": "obverse.estimator.method",
    "Run": "obverse.api.run",
    "Term": "obverse.estimator.formula",
    "coefficients": "obverse.api.coefficients",
    "compare": "obverse.api.compare",
    "evaluate": "obverse.api.evaluate",
    "find": "obverse.methods",
    "load_run": "obverse.api.run",
    "loss": "obverse.api.loss",
    "method_table": "obverse.api.method_entries",
    "train": "obverse.api.train",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module that defines it."""
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(MODULES[name]), name)
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
