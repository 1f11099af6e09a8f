"""What every part is: a tiny frozen value with a name that prints itself, and the five shapes it may have.

A part never imports torch: it works through the tensors it is given, so that the method table costs no import.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from obverse.records import Group, Problem, Sample, Source, Wish

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.view import View


class Named:
    """Prints as it is written in the method table: `clip(0.2, 0.28)`, `standardized(eps=1e-06)`, `behavior`."""

    needs: ClassVar[frozenset[str]] = frozenset()  # token columns it reads beyond source, sample and position

    def __str__(self) -> str:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()
        if not is_dataclass(self):
            return name
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        options = [f"{option}={show(value)}" for option, value in values.items() if value != ()]
        return f"{name}({', '.join(options)})" if options else name


def show(value: Any) -> str:
    """A value as it stands in a part's name."""
    if isinstance(value, tuple):
        return "+".join(map(show, value))
    if isinstance(value, Source):
        return value.label
    return f"{value:g}" if isinstance(value, float) else str(value)


class Part(Named):
    """A number per token: an advantage, or the log of a reference probability; (view) -> [T]."""

    def __call__(self, view: View) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not say what it computes: define __call__(view) -> [T]")


class Gate(Named):
    """The stability mask: which tokens count; (view, ratio [T], advantage [T]) -> [T], usually 0 or 1."""

    def __call__(self, view: View, ratio: Tensor, advantage: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not say what it computes: define __call__(view, ratio, advantage)")


class Share(Named):
    """1 / denominator, counted over the whole update and named by its denominator only; (view, source) -> [T]."""

    def __call__(self, view: View, source: Source) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not say what it computes: define __call__(view, source) -> [T]")


class Ask(Protocol):
    """What a method wants for a problem at this point of the run."""

    def __call__(self, problem: Problem, progress: float) -> list[Wish]: ...


class Keep(Protocol):
    """What survives of a group once its rewards are known."""

    def __call__(self, group: Group) -> list[Sample]: ...


Weight = float | Callable[[float], float]  # a number, or a schedule over progress 0..1
