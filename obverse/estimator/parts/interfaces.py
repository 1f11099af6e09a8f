"""The interfaces of parts: small frozen values that print as their name and options.

Parts never import torch: they call methods of the tensors in their inputs, so that listing methods needs no torch.
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

    # The columns that the part reads, by the names of `columns.COLUMNS_BY_NEED`.
    needs: ClassVar[frozenset[str]] = frozenset()
    # It reads `behavior` of rollout tokens only.
    rollout_tokens_only: ClassVar[bool] = False
    # A reference: equal to the policy until the first optimizer step after sampling.
    equals_policy_at_start: ClassVar[bool] = False
    # An advantage: one number per sample that is known without a forward pass.
    is_policy_independent: ClassVar[bool] = False
    # It compares policy outputs of a problem's samples: all of them must be in one micro batch.
    needs_whole_groups: ClassVar[bool] = False

    def __str__(self) -> str:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()
        if not is_dataclass(self):
            return name
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        options = [f"{option}={show(value)}" for option, value in values.items() if value != ()]
        return f"{name}({', '.join(options)})" if options else name


def show(value: Any) -> str:
    """A value as it is printed in a part's name."""
    if isinstance(value, tuple):
        return "+".join(map(show, value))
    if isinstance(value, Source):
        return value.label
    return f"{value:g}" if isinstance(value, float) else str(value)


class Part(Named):
    """A number per token: an advantage, or the log of a reference probability; (inputs) -> [T]."""

    def __call__(self, inputs: PartInputs) -> Tensor:
        raise TypeError(f"{type(self).__name__} has no __call__(inputs) -> [T]: define it")


class PairedAdvantage(Part):
    """An advantage that compares the two responses of a pair; metrics report its margins (`rewards/margins`)."""

    def margins(self, inputs: PartInputs) -> Tensor:
        """The score of the preferred response minus that of the other one, for every pair of the micro batch; [P]."""
        raise TypeError(f"{type(self).__name__} defines no margins: define margins(inputs) -> [P]")


class LabeledAdvantage(Part):
    """An advantage of single responses with a label; metrics report `rewards/chosen` and `rewards/rejected`."""

    def rewards(self, inputs: PartInputs) -> Tensor:
        """The implicit reward of every sample, of which those of the micro batch are read; [S]."""
        raise TypeError(f"{type(self).__name__} defines no rewards: define rewards(inputs) -> [S]")


class Mask(Named):
    """The stability mask: which tokens count; (inputs, ratio [T], advantage [T]) -> [T], usually 0 or 1."""

    reads_ratio_only: ClassVar[bool] = False  # it reads the ratio and the advantage, and no inputs

    def __call__(self, inputs: PartInputs, ratio: Tensor, advantage: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} has no __call__(inputs, ratio, advantage) -> [T]: define it")


class Normalizer(Named):
    """1 / denominator, counted over the whole update and named by its denominator only; (inputs, source) -> [T]."""

    def __call__(self, inputs: PartInputs, source: Source) -> Tensor:
        raise TypeError(f"{type(self).__name__} has no __call__(inputs, source) -> [T]: define it")


class Shaping(Named):
    """An addition to a sample's reward, at the token where it arises; (inputs) -> [T].

    It is computed once, before an update, while the policy is still the one that sampled.
    """

    def __call__(self, inputs: PartInputs) -> Tensor:
        raise TypeError(f"{type(self).__name__} has no __call__(inputs) -> [T]: define it")


class Memory(Named):
    """A number that persists across updates, per problem or for the run; it is stored in checkpoints.

    Parts read it as `inputs.samples.memory` [S], with its value before the update.
    """

    per_problem: ClassVar[bool] = False  # a number per problem; False: one for the run
    start: float = 0.0  # the initial value

    def value_for(self, group: Group, stored: float) -> float:
        """The number that the samples of `group` read; `stored` is the persistent value."""
        return stored

    def observe(self, inputs: PartInputs) -> Tensor | None:
        """An observation for each sample of this micro batch; [S], only its own rows are read. None: no observation."""
        return None

    def updated_value(self, stored: float, observed: Sequence[float]) -> float:
        """The persistent value after an update; `observed` are the observations of the samples that it covers."""
        return stored


class RequestFunction(Protocol):
    """The generation requests for a problem at a fraction `progress` (0 to 1) of the run."""

    def __call__(self, problem: Problem, progress: float) -> list[GenerationRequest]: ...


class FollowUp(Named):
    """Requests further samples of a problem once those so far are graded.

    Rounds count from 1 to `max_rounds`. A sample without a grade, because its grader failed, counts as incorrect.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"correct"})

    @property
    def max_rounds(self) -> int:
        """The largest number of rounds after the first samples."""
        raise TypeError(f"{type(self).__name__} defines no max_rounds: define it as a property")

    def __call__(self, group: Group, progress: float, round_number: int) -> list[GenerationRequest]:
        """The requests of a round, given all graded samples of the problem; empty: the problem is complete."""
        raise TypeError(f"{type(self).__name__} has no __call__(group, progress, round_number): define it")

    def alternatives(self, problem: Problem) -> list[list[GenerationRequest]]:
        """Every list of requests that all rounds together may add for the problem, an empty one included."""
        raise TypeError(f"{type(self).__name__} defines no alternatives(problem): define them")


class ProblemTransform(Protocol):
    """Replaces the problems of a data set by others."""

    def __call__(self, problems: Sequence[Problem]) -> list[Problem]: ...


class SampleSelector(Protocol):
    """Selects the samples of a graded group that may train."""

    def __call__(self, group: Group) -> list[Sample]: ...


Weight = float | Callable[[float], float]  # a number, or a schedule over progress 0..1
