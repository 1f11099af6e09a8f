"""2503.14476: the clipped surrogate with two bounds, summed over all tokens of the update and divided by their number.

Groups without both right and wrong answers are not here: `keep` has dropped them.
"""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.records import Source


def objective(low: float, high: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for row, mask in data.rows(Source.ROLLOUT):
            rewards = data.samples.reward[data.members(row)]
            advantage = (data.samples.reward[row] - rewards.mean()) / (rewards.std() + 1e-6)
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            total = total - torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage).sum()
            num_tokens += int(mask.sum())
        return total / num_tokens

    return literal


CASES = [({}, objective(0.2, 0.28)), ({"epsilon": 0.1, "epsilon_high": 0.5}, objective(0.1, 0.5))]
