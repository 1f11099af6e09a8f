"""Post-training of language models: SFT and RL as one gradient estimator.

    import obverse

    outcome = obverse.train("hpt", model="embedded", dataset="arithmetic:1-6", max_steps=50)
    obverse.load_run(outcome.folder).metrics[-1]["reward"]
    (report,) = obverse.evaluate(outcome.folder, dataset="arithmetic:4-6")

Importing the package imports no torch: every name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from obverse.version import __version__

if TYPE_CHECKING:
    from obverse.cli.compare import compare
    from obverse.cli.eval import evaluate
    from obverse.cli.train import train
    from obverse.estimator.formula import Term
    from obverse.estimator.method import Method
    from obverse.methods import find
    from obverse.report.load_runs import load_run

__all__ = ["Method", "Term", "__version__", "compare", "evaluate", "find", "load_run", "train"]

MODULES = {
    "Method": "obverse.estimator.method",
    "Term": "obverse.estimator.formula",
    "compare": "obverse.cli.compare",
    "evaluate": "obverse.cli.eval",
    "find": "obverse.methods",
    "load_run": "obverse.report.load_runs",
    "train": "obverse.cli.train",
}


def __getattr__(name: str) -> Any:
    """Load a public name from the module that defines it."""
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(MODULES[name]), name)
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
