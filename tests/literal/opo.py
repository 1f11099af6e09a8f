"""2505.23585: log pi times the reward minus the group's mean, weighted by length; a mean over tokens."""

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def literal(data: Numbers) -> Tensor:
    total, num_tokens = torch.zeros((), dtype=torch.float64), 0
    lengths = {row: int(mask.sum()) for row, mask in data.rows(Source.ROLLOUT)}
    for row, mask in data.rows(Source.ROLLOUT):
        weighted = sum(lengths[member] * float(data.samples.reward[member]) for member in data.members(row))
        baseline = weighted / sum(lengths[member] for member in data.members(row))
        total = total - (data.samples.reward[row] - baseline) * data.logp[mask].sum()
        num_tokens += lengths[row]
    return total / num_tokens


CASES = [({}, literal)]
