"""2606.22600 as TRL has it: the gap of each own token, weighted by how far policy and teacher agreed before it."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(gamma: float) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, num_tokens = torch.zeros((), dtype=torch.float64), 0
        for _, mask in data.rows(Source.ROLLOUT):
            gaps = (data.tokens.teacher - data.tokens.behavior)[mask].tolist()
            whole, before = max(sum(map(abs, gaps)), 1e-8), 0.0
            for gap, logp in zip(gaps, data.logp[mask], strict=True):
                total = total - (1 + gamma * (1 - before / whole)) * gap * logp
                before += abs(gap)
            num_tokens += len(gaps)
        return total / num_tokens

    return literal


CASES = [({}, objective(0.5)), ({"gamma": 0.0}, objective(0.0))]
