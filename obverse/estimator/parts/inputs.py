"""Changes of the response's input embeddings before the forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from obverse.estimator.parts.interfaces import Named

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GreedyMix(Named):
    """The embedding of a response token is (1 - share) E(token) + share E(the policy's greedy token at its position).

    E is the embedding table of the initial model, frozen. Source: IFT, 2405.11870.
    """

    share: float = 0.2

    def __call__(self, token: Tensor, guess: Tensor) -> Tensor:
        """The mixed embeddings; all [R, H]: `token` and `guess` from the frozen table."""
        return (1 - self.share) * token + self.share * guess
