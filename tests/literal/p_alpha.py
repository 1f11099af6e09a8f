"""2510.00526: (1 - p^alpha) / alpha on demonstrated tokens, -log p at alpha 0; a mean over all tokens."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(alpha: float, threshold: float = 0.0, most: float = 1.0) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for _, mask in data.rows(Source.DEMONSTRATION):
            logp = data.logp[mask]
            chance = logp.detach().exp()
            logp = logp[(chance >= threshold) & (chance <= most)]
            total = total + ((1 - (alpha * logp).exp()) / alpha if alpha else -logp).sum()
            num_tokens += len(logp)
        return total / max(num_tokens, 1)

    return literal


THRESHOLDS = [
    ({"threshold": 0.4}, objective(1.0, threshold=0.4)),
    ({"threshold": 0.4, "keep": "bottom"}, objective(1.0, most=0.4)),
    ({"alpha": 0.0, "threshold": 0.3}, objective(0.0, threshold=0.3)),
]
CASES = [({}, objective(1.0)), *(({"alpha": alpha}, objective(alpha)) for alpha in (0.0, 0.5, -0.3)), *THRESHOLDS]
