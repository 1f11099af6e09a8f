"""2402.01306: 1 - sigmoid of beta times the log-ratio's distance from z_0, with the label's sign; a mean over rows."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(
    beta: float = 0.1, good: float = 1.0, bad: float = 1.0, shifted: bool = True
) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        losses = []
        for source, weight in ((Source.CHOSEN, good), (Source.REJECTED, bad)):
            for row, mask in data.rows(source):
                start = float(data.samples.memory[row]) if shifted else 0.0
                distance = (data.logp[mask] - data.tokens.anchor[mask]).sum() - start
                sign = 1 if source is Source.CHOSEN else -1
                losses.append(weight * (1 - torch.sigmoid(sign * beta * distance)))
        return torch.stack(losses).mean()

    return literal


CASES = [
    ({}, objective()),
    ({"beta": 0.5, "desirable_weight": 1.3, "undesirable_weight": 0.4}, objective(0.5, 1.3, 0.4)),
    ({"loss": "apo_zero_unpaired"}, objective(shifted=False)),
]
