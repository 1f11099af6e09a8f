"""2203.02155 eq. 1, Bradley-Terry with margin and centering: the score is the head's output at the last token."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor
from torch.nn.functional import logsigmoid

from obverse.types import Source


def objective(margin: float, center: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        losses = []
        for better, up in data.rows(Source.CHOSEN):
            for worse, down in data.rows(Source.REJECTED):
                if data.samples.group[better] == data.samples.group[worse]:
                    one, other = (
                        max(zip(data.tokens.position[mask], data.value[mask], strict=True), key=lambda each: each[0])[1]
                        for mask in (up, down)
                    )
                    losses.append(-logsigmoid(one - other - margin) + center * (one + other) ** 2)
        return torch.stack(losses).mean()

    return literal


CASES = [
    ({}, objective(0.0, 0.0)),
    ({"margin": 0.7}, objective(0.7, 0.0)),
    ({"margin": 0.2, "center_rewards_coefficient": 0.01}, objective(0.2, 0.01)),
]
