"""What every part is: a tiny frozen value with a name that prints itself, and the five shapes it may have.

A part never imports torch: it works through the tensors it is given, so that the method table costs no import.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from obverse.types import GenerationRequest, Group, Problem, Sample, Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs


class Named:
    """Prints as it is written in the method table: `clip(0.2, 0.28)`, `standardized(eps=1e-06)`, `behavior`."""

    needs: ClassVar[frozenset[str]] = frozenset()  # the columns it reads, by the names of `columns.OPENS`
    own_tokens_only: ClassVar[bool] = False  # of `behavior` it reads the policy's own tokens and no others
    is_policy: ClassVar[bool] = False  # a reference that is the policy itself until that moves
    is_policy_independent: ClassVar[bool] = (
        False  # an advantage that is known before the policy is asked, one number per sample
    )
    together: ClassVar[bool] = False  # it compares live numbers of a problem's samples: one micro batch holds them all

    def __str__(self) -> str:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()
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
    """A number per token: an advantage, or the log of a reference probability; (inputs) -> [T]."""

    def __call__(self, inputs: PartInputs) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not say what it computes: define __call__(inputs) -> [T]")


class Mask(Named):
    """The stability mask: which tokens count; (inputs, ratio [T], advantage [T]) -> [T], usually 0 or 1."""

    of_ratio: ClassVar[bool] = False  # it reads the ratio and the advantage only

    def __call__(self, inputs: PartInputs, ratio: Tensor, advantage: Tensor) -> Tensor:
        raise TypeError(
            f"{type(self).__name__} does not say what it computes: define __call__(inputs, ratio, advantage)"
        )


class Normalizer(Named):
    """1 / denominator, counted over the whole update and named by its denominator only; (inputs, source) -> [T]."""

    def __call__(self, inputs: PartInputs, source: Source) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not say what it computes: define __call__(inputs, source) -> [T]")


class Shaping(Named):
    """What is added to a sample's reward, at the token where it arises; (inputs) -> [T].

    It is read once, before an update, when the policy is still the one that sampled.
    """

    def __call__(self, inputs: PartInputs) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not say what it computes: define __call__(inputs) -> [T]")


class Memory(Named):
    """A number that outlives an update: what a method remembers of each problem, or of the run; it is checkpointed.

    Parts read it as `inputs.samples.memory` [S], as it was before the update.
    """

    of_problem: ClassVar[bool] = False  # a number per problem; False: one for the run
    start: float = 0.0  # before anything is known

    def recall(self, group: Group, known: float) -> float:
        """The number for the samples of `group`; `known` is what was kept."""
        return known

    def observe(self, inputs: PartInputs) -> Tensor | None:
        """What every sample of this micro batch shows; [S], only its own rows are read. None: nothing is kept."""
        return None

    def revise(self, known: float, observed: Sequence[float]) -> float:
        """What is known after an update; `observed` has the samples that the number is about."""
        return known


class Ask(Protocol):
    """What a method wants for a problem at this point of the run."""

    def __call__(self, problem: Problem, progress: float) -> list[GenerationRequest]: ...


class Keep(Protocol):
    """What survives of a group once its rewards are known."""

    def __call__(self, group: Group) -> list[Sample]: ...


Weight = float | Callable[[float], float]  # a number, or a schedule over progress 0..1
