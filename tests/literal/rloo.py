"""2402.14740 as TRL has it: the clipped surrogate of the sequence ratio, the KL in the reward; and REINFORCE."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def reward_of(data: Numbers, row: int, beta: float) -> Tensor:
    """What the verifier gave, minus the log-ratio of the whole answer under the sampler and the initial model."""
    mask = (data.tokens.sample == row) & data.mask(Source.ROLLOUT)
    return data.update.rows[row].reward - beta * (data.tokens.behavior[mask] - data.tokens.anchor[mask]).sum()


def advantage_of(data: Numbers, row: int, beta: float) -> Tensor:
    others = [reward_of(data, member, beta) for member in data.members(row) if member != row]
    return reward_of(data, row, beta) - torch.stack(others).mean()


def objective(low: float, high: float, per_token: bool = False, beta: float = 0.0) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, rows = torch.zeros((), dtype=torch.float64), data.rows(Source.ROLLOUT)
        for row, mask in rows:
            advantage = advantage_of(data, row, beta)
            log_ratio = data.logp[mask] - data.tokens.behavior[mask]
            ratio = torch.exp(log_ratio if per_token else log_ratio.sum())
            total = total - torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage).sum()
        return total / len(rows)

    return literal


def reinforce(data: Numbers) -> Tensor:
    rows = data.rows(Source.ROLLOUT)
    return torch.stack([-advantage_of(data, row, 0.3) * data.logp[mask].sum() for row, mask in rows]).mean()


CASES = [
    ({}, objective(0.2, 0.2)),
    ({"beta": 0.05}, objective(0.2, 0.2, beta=0.05)),
    ({"epsilon": 0.1, "epsilon_high": 0.3, "beta": 0.1}, objective(0.1, 0.3, beta=0.1)),
    ({"epsilon": None}, objective(1.0, float("inf"))),
    ({"ratio": "token"}, objective(0.2, 0.2, per_token=True)),
    ({"ratio": "none", "beta": 0.3}, reinforce),
]
