"""2410.21438 eq. 7: every response's implicit score against 1 (demonstration, chosen), 0 (rejected) or its reward."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(beta: float, entropic: bool, *sources: Source) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        losses = []
        for source in sources:
            for row, mask in data.rows(source):
                reward = min(max(data.update.rows[row].grade.reward, 0.0), 1.0)
                target = {Source.REJECTED: 0.0, Source.ROLLOUT: reward}.get(source, 1.0)
                score = torch.sigmoid(beta * (data.logp[mask] - data.tokens.anchor[mask]).sum())
                if entropic:
                    losses.append(-target * torch.log(score) - (1 - target) * torch.log(1 - score))
                else:
                    losses.append((score - target) ** 2)
        return torch.stack(losses).mean()

    return literal


SHOWN, PAIRED, OWN = (Source.DEMONSTRATION,), (Source.CHOSEN, Source.REJECTED), (Source.ROLLOUT,)
CASES = [
    ({}, objective(0.01, False, *SHOWN, *PAIRED)),
    ({"loss": "bce", "beta": 0.3, "num_generations": 4}, objective(0.3, True, *SHOWN, *PAIRED, *OWN)),
    ({"beta": 0.3, "num_generations": 4, "data": "none"}, objective(0.3, False, *OWN)),
    ({"beta": 0.1, "data": "demonstrations"}, objective(0.1, False, *SHOWN)),
    ({"beta": 0.1, "data": "pairs", "loss": "bce"}, objective(0.1, True, *PAIRED)),
]
