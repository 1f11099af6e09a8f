"""2509.04419 eq. 9-12 with the authors' run script: no clip, no std; and the printed form, with both.

The gate has already chosen which samples are here; `test_keep` in tests/parts checks the gate itself.
"""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.records import Source


def objective(length: int, sft_coef: float, entropy_coef: float, printed: bool = False) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        rows, shown = data.rows(Source.ROLLOUT), data.mask(Source.DEMONSTRATION)
        for row, mask in rows:
            rewards = data.samples.reward[data.members(row)]
            advantage = data.samples.reward[row] - rewards.mean()
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            if printed:
                advantage = advantage / (rewards.std() + 1e-6)
                ratio_a = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            else:
                ratio_a = ratio * advantage
            total = total - ratio_a.sum() / length / len(rows)
        if shown.any():
            total = total - sft_coef * data.logp[shown].mean()
        return total - entropy_coef * data.entropy.mean()

    return literal


CASES = [
    ({}, objective(8192, 1.0, 0.001)),
    ({"gate": 1, "sft_coef": 0.3, "max_completion_length": 32}, objective(32, 0.3, 0.001)),
    ({"entropy_coef": 0.0, "scale_rewards": "group", "epsilon": 0.2}, objective(8192, 1.0, 0.0, printed=True)),
]
