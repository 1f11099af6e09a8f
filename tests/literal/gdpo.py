"""2601.05242: each reward standardized within the group, their weighted sum whitened over the update, PPO's surrogate.

The whitening is that of the authors' verl fork (over tokens) or of their TRL fork (over samples).
"""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def standardized(data: Numbers, row: int, name: str, eps: float) -> Tensor:
    """The reward `name` of a row minus its group's mean, over the std; members without that reward do not count."""
    grades = {member: data.update.rows[member].grade for member in data.members(row)}
    group = {member: grade.components[name] for member, grade in grades.items() if name in grade.components}
    if row not in group or len(group) < 2:
        return torch.zeros((), dtype=torch.float64)
    rewards = torch.tensor(list(group.values()), dtype=torch.float64)
    return (group[row] - rewards.mean()) / (rewards.std() + eps)


def objective(
    low: float, high: float, over_tokens: bool, eps: float, whitening_eps: float
) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        rows = data.rows(Source.ROLLOUT)
        sums = {}
        for row, _ in rows:
            weights = data.update.rows[row].grade.weights
            terms = [weight * standardized(data, row, name, eps) for name, weight in weights.items()]
            sums[row] = torch.stack(terms).sum()
        if over_tokens:
            pooled = torch.cat([sums[row].expand(int(mask.sum())) for row, mask in rows])
            scale = (pooled.var() + whitening_eps).sqrt() if len(pooled) > 1 else whitening_eps**0.5
        else:
            pooled = torch.stack([sums[row] for row, _ in rows])
            scale = pooled.std() + whitening_eps
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for row, mask in rows:
            advantage = (sums[row] - pooled.mean()) / scale
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            total = total - torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage).sum()
            num_tokens += int(mask.sum())
        return total / num_tokens

    return literal


CASES = [
    ({}, objective(0.2, 0.2, True, 1e-6, 1e-8)),
    ({"whitening": "samples", "eps": 1e-4, "whitening_eps": 1e-4}, objective(0.2, 0.2, False, 1e-4, 1e-4)),
    ({"epsilon": 0.1, "epsilon_high": 0.5, "whitening_eps": 0.1}, objective(0.1, 0.5, True, 1e-6, 0.1)),
]
