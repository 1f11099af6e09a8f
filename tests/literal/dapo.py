"""2503.14476: the clipped surrogate with two bounds, summed over all tokens of the update and divided by their number.

With the recipe's dual clip, and the overlong penalty in the reward. Groups without both right and wrong answers are not
here: `keep` has dropped them.
"""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(
    low: float, high: float, most: float, longest: int, cache: int, factor: float = 1.0
) -> Callable[[Numbers], Tensor]:
    def reward_of(data: Numbers, row: int) -> Tensor:
        beyond = len(data.update.rows[row].ids) - (longest - cache)
        penalty = min(-beyond / cache * factor, 0.0)
        return torch.tensor(data.update.rows[row].reward + penalty, dtype=torch.float64)

    def literal(data: Numbers) -> Tensor:
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for row, mask in data.rows(Source.ROLLOUT):
            rewards = torch.stack([reward_of(data, member) for member in data.members(row)])
            advantage = (reward_of(data, row) - rewards.mean()) / (rewards.std() + 1e-6)
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            surrogate = torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
            if advantage < 0:
                surrogate = torch.max(surrogate, most * advantage)
            total = total - surrogate.sum()
            num_tokens += int(mask.sum())
        return total / num_tokens

    return literal


NEVER = float("inf")
CASES = [
    ({}, objective(0.2, 0.28, 10.0, 20480, 4096)),
    ({"epsilon": 0.1, "epsilon_high": 0.5, "dual_clip": 1.5}, objective(0.1, 0.5, 1.5, 20480, 4096)),
    ({"dual_clip": None, "overlong_factor": 0.0}, objective(0.2, 0.28, NEVER, 20480, 4096, 0.0)),
    ({"max_completion_length": 8, "overlong_cache_length": 5}, objective(0.2, 0.28, 10.0, 8, 5)),
    ({"max_completion_length": 7, "overlong_factor": 0.5}, objective(0.2, 0.28, 10.0, 7, 1, 0.5)),
]
