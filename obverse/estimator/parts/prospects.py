"""Single responses with a label, good or bad: prospect theory's value of their log-ratio to the initial model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from obverse.estimator.parts.interfaces import LabeledAdvantage, Memory
from obverse.estimator.parts.pairs import log_ratios
from obverse.types import Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs


@dataclass(frozen=True)
class MismatchedKL(Memory):
    """z_0, an estimate of KL(pi || pi_anchor) from responses behind the prompts of other samples, at least 0.

    Not a number that persists: before each optimizer step policy and anchor score response i - 1 of the update behind
    prompt i, which is another one, and z_0 is the mean of their summed log-ratios, over all samples of all ranks. In
    step files it is the key `memory`, 0 where that is absent. Source: KTO, 2402.01306 sec. 4.1.
    """


@dataclass(frozen=True)
class Prospect(LabeledAdvantage):
    """A = weight beta s (1 - s), s = sigmoid(beta (L - z_0)), on a chosen response, minus that on a rejected one; [T].

    L is the sample's summed log-ratio to the anchor, the weights `desirable` and `undesirable`, and z_0 the memory
    (`MismatchedKL`), or 0 without `shifted`. Source: KTO, 2402.01306 eq. 8; unshifted, APO-zero on single responses in
    TRL.
    """

    beta: float = 0.1
    desirable: float = 1.0
    undesirable: float = 1.0
    shifted: bool = True

    def __post_init__(self) -> None:
        if self.beta <= 0 or min(self.desirable, self.undesirable) < 0:
            raise ValueError("beta must be above 0, and the weights of desirable and undesirable rows at least 0")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"anchor", "memory"} if self.shifted else {"anchor"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        ratio = log_ratios(inputs)
        exponent = self.beta * (ratio - inputs.samples.memory if self.shifted else ratio)
        slope = self.beta * exponent.sigmoid() * (-exponent).sigmoid()
        is_chosen = inputs.samples.counts[:, int(Source.CHOSEN)] > 0
        return inputs.spread((self.desirable * slope).where(is_chosen, -self.undesirable * slope))

    def rewards(self, inputs: PartInputs) -> Tensor:
        """beta L, as TRL; [S]."""
        return self.beta * log_ratios(inputs)
