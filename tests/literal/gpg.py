"""2504.02546: REINFORCE with the group's mean as baseline, times samples over valid samples; a mean over all tokens."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(counts_groups: bool = False) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, num_tokens, num_samples, num_valid = torch.zeros((), dtype=torch.float64), 0, 0, 0
        for row, mask in data.rows(Source.ROLLOUT):
            rewards = [float(data.samples.reward[member]) for member in data.members(row)]
            reward = float(data.samples.reward[row])
            num_samples += 1
            num_valid += len(set(rewards)) > 1 if counts_groups else reward != 0
            total = total - ((reward - sum(rewards) / len(rewards)) * data.logp[mask]).sum()
            num_tokens += int(mask.sum())
        return total * num_samples / max(num_valid, 1) / num_tokens

    return literal


CASES = [({}, objective()), ({"valid": "groups"}, objective(counts_groups=True))]
