"""2512.17636: f(p) on demonstrated tokens, linear below the trusted probability and logarithmic above; sums / (L B)."""

import math
from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(trust: float, length: int = 8192) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, rows = torch.zeros((), dtype=torch.float64), data.rows(Source.DEMONSTRATION)
        for _, mask in rows:
            for logp in data.logp[mask]:
                is_trusted = float(logp.detach()) > math.log(trust)
                total = total - (logp - math.log(trust) + 1 if is_trusted else logp.exp() / trust)
        return total / length / len(rows)

    return literal


CASES = [({}, objective(0.1)), ({"trust": 0.5, "max_completion_length": 32}, objective(0.5, 32))]
