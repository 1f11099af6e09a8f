"""2508.10751: all subsets of k samples, each with its best reward as reward; 2503.19595: the margin."""

from collections.abc import Callable
from itertools import combinations

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def by_subsets(rewards: list[float], index: int, k: int) -> float:
    """The mean reward of the subsets with `index`, standardized by mean and std of those of all subsets."""
    subsets = list(combinations(range(len(rewards)), k))
    if not subsets:
        return 0.0
    best = torch.tensor([max(rewards[member] for member in subset) for subset in subsets], dtype=torch.float64)
    containing = torch.tensor([index in subset for subset in subsets])
    return float((best[containing].mean() - best.mean()) / (best.std(correction=0) + 1e-6))


def by_margin(rewards: list[float], index: int) -> float:
    first, second, *_ = sorted(rewards, reverse=True)
    is_best = rewards[index] == first and second < first
    return (first - second) / (float(torch.tensor(rewards, dtype=torch.float64).std()) + 1e-6) if is_best else 0.0


def objective(
    advantage_of: Callable[[list[float], int], float], low: float = 0.2, high: float = 0.2
) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for row, mask in data.rows(Source.ROLLOUT):
            members = data.members(row)
            advantage = advantage_of(data.samples.reward[members].tolist(), members.index(row))
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            total = total - torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage).sum()
            num_tokens += int(mask.sum())
        return total / num_tokens

    return literal


def subsets_of(k: int) -> Callable[[list[float], int], float]:
    return lambda rewards, index: by_subsets(rewards, index, k)


CASES = [
    ({}, objective(subsets_of(2))),
    ({"k": 1}, objective(subsets_of(1))),
    ({"k": 3, "epsilon": 0.1, "epsilon_high": 0.5}, objective(subsets_of(3), 0.1, 0.5)),
    ({"form": "best", "epsilon_high": 1e4}, objective(by_margin, 0.2, 1e4)),
]
