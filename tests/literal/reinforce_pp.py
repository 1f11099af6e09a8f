"""2501.03262: PPO's clipped surrogate, a mean over tokens, with rewards standardized over all tokens of the update."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(has_baseline: bool, low: float, high: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, rows = torch.zeros((), dtype=torch.float64), data.rows(Source.ROLLOUT)
        values = []
        for row, _ in rows:
            baseline = data.samples.reward[data.members(row)].mean() if has_baseline else 0.0
            values.append(float(data.samples.reward[row] - baseline))
        tokens = torch.tensor(
            [value for value, (_, mask) in zip(values, rows, strict=True) for _ in range(int(mask.sum()))],
            dtype=torch.float64,
        )
        mean, std = tokens.mean(), tokens.std(correction=0).clamp(min=1e-4)
        for value, (_, mask) in zip(values, rows, strict=True):
            advantage = (value - mean) / std
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            total = total - torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage).sum()
        return total / len(tokens)

    return literal


CASES = [
    ({}, objective(False, 0.2, 0.2)),
    ({"baseline": True}, objective(True, 0.2, 0.2)),
    ({"epsilon": 0.1, "epsilon_high": 0.5}, objective(False, 0.1, 0.5)),
]
