"""2601.02151: the token's loss times (entropy / 3)^alpha without gradient; the mean over all tokens."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(alpha: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for _, mask in data.rows(Source.DEMONSTRATION):
            total = total - ((data.entropy[mask].detach() / 3.0) ** alpha * data.logp[mask]).sum()
            num_tokens += int(mask.sum())
        return total / num_tokens

    return literal


CASES = [({}, objective(1.0)), ({"alpha": 2.0}, objective(2.0)), ({"alpha": 0.0}, objective(0.0))]
