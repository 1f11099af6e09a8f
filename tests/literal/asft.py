"""2509.23753: DFT's loss plus a KL from the initial model, both means over all tokens."""

from collections.abc import Callable

from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(kl_weight: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        mask = data.mask(Source.DEMONSTRATION)
        logp = data.logp[mask]
        return -(logp.exp().detach() * logp).mean() + kl_weight * data.divergence[mask].mean()

    return literal


CASES = [({}, objective(0.1)), ({"kl_weight": 0.05}, objective(0.05)), ({"kl_weight": 0.0}, objective(0.0))]
