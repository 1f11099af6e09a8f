"""Losses of a preference pair as the slopes by its two scores; the names are those of TRL's `loss_type`.

w and l are the scores of the chosen and the rejected response, h = w - l - margin / beta, s = sigmoid, e label
smoothing:

    sigmoid, sigmoid_norm   -(1 - e) log s(beta h) - e log s(-beta h)                  2305.18290; e: cDPO
    hinge                   max(0, 1 - beta h)                                         2305.10425
    ipo                     (h - 1 / (2 beta))^2                                       2310.12036
    exo_pair                q log(q / (1 - e)) + (1 - q) log((1 - q) / e), q = s(beta h)   2402.00856
    nca_pair                -log s(beta w) - log s(-beta w) / 2 - log s(-beta l) / 2   2402.05369
    robust                  (-(1 - e) log s(beta h) + e log s(-beta h)) / (1 - 2 e)    2403.00409
    bco_pair                -log s(beta w) - log s(-beta l)                            2404.04656, without its shift
    sppo_hard               (w - 1 / (2 beta))^2 + (l + 1 / (2 beta))^2                2405.00675
    apo_zero                1 - s(beta w) + s(beta l)                                  2408.06266
    apo_down                s(beta w) + 1 - s(beta h)                                  2408.06266
    discopop                -(1 - m) log s(z) + m e^-z, z = beta h, m = s(z / 0.05)    2406.08414

`aot` and `aot_unpaired` compare sorted scores of all pairs (`pairs.Transported`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

PairLoss = Literal[
    "sigmoid",
    "sigmoid_norm",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "apo_zero",
    "apo_down",
    "discopop",
    "aot",
    "aot_unpaired",
]
AVERAGED = ("ipo", "sigmoid_norm")  # of scores divided by the response's tokens
SMOOTHED = ("sigmoid", "sigmoid_norm", "exo_pair", "robust", "aot", "aot_unpaired")  # that take label smoothing
DISCOPOP_TEMPERATURE = 0.05
EXPONENT_LIMIT = 40.0  # of discopop's exponential: its square is finite in float32


def pulls(
    loss: PairLoss, better: Tensor, worse: Tensor, beta: float, smoothing: float, margin: float
) -> tuple[Tensor, Tensor]:
    """Minus the slopes of each pair's loss by the score of its better and of its worse sample; [P] each."""
    gap = better - worse - margin / beta
    if loss == "nca_pair":
        return beta * ((-beta * better).sigmoid() - (beta * better).sigmoid() / 2), -beta * (beta * worse).sigmoid() / 2
    if loss == "bco_pair":
        return beta * (-beta * better).sigmoid(), -beta * (beta * worse).sigmoid()
    if loss == "sppo_hard":
        return 1 / beta - 2 * better, -1 / beta - 2 * worse
    if loss == "apo_zero":
        return beta * _bump(beta * better), -beta * _bump(beta * worse)
    if loss == "apo_down":
        return beta * (_bump(beta * gap) - _bump(beta * better)), -beta * _bump(beta * gap)
    pull = _pull_of_gap(loss, gap, beta, smoothing)
    return pull, -pull


def _pull_of_gap(loss: PairLoss, gap: Tensor, beta: float, smoothing: float) -> Tensor:
    """Minus the slope by the gap of the losses that depend on it alone; [P]."""
    right, wrong = (beta * gap).sigmoid(), (-beta * gap).sigmoid()
    if loss == "ipo":
        return 1 / beta - 2 * gap
    if loss == "hinge":
        return beta * (beta * gap < 1).to(gap.dtype)
    if loss == "robust":
        return beta * ((1 - smoothing) * wrong + smoothing * right) / (1 - 2 * smoothing)
    if loss == "exo_pair":  # log(q / (1 - q)) is beta gap
        return -beta * right * wrong * (beta * gap - math.log((1 - smoothing) / smoothing))
    if loss == "discopop":
        return -beta * _discopop_slope(beta * gap)
    return beta * ((1 - smoothing) * wrong - smoothing * right)


def _bump(value: Tensor) -> Tensor:
    """s(z) s(-z), the slope of the sigmoid."""
    return value.sigmoid() * (-value).sigmoid()


def _discopop_slope(value: Tensor) -> Tensor:
    """The slope of -(1 - m) log s(z) + m e^-z, in which m depends on z too."""
    z = value.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT)
    blend = (z / DISCOPOP_TEMPERATURE).sigmoid()
    logistic = (-z).clamp(min=0) + (-z.abs()).exp().log1p()
    exponential = (-z).exp()
    blended = (exponential - logistic) * _bump(z / DISCOPOP_TEMPERATURE) / DISCOPOP_TEMPERATURE
    return blended - (1 - blend) * (-z).sigmoid() - blend * exponential
