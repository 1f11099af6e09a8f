"""2504.14945's ablation "RL w/ SFT loss": the sum of a policy gradient on own samples and a token-mean NLL."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(
    length: int, sft_coef: float, rl_coef: float, entropy_coef: float, printed: bool = False
) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        rows = data.rows(Source.ROLLOUT)
        own = {row for row, _ in rows}
        total = torch.zeros((), dtype=torch.float64)
        for row, mask in rows:
            rewards = data.samples.reward[[member for member in data.members(row) if member in own]]
            advantage = data.samples.reward[row] - rewards.mean()
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            if printed:
                advantage = advantage / (rewards.std() + 1e-6)
                ratio_a = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            else:
                ratio_a = ratio * advantage
            total = total - rl_coef * ratio_a.sum() / length / len(rows)
        total = total - sft_coef * data.logp[data.mask(Source.DEMONSTRATION)].mean()
        return total - entropy_coef * data.entropy.mean()

    return literal


CASES = [
    ({}, objective(8192, 1.0, 1.0, 0.001)),
    ({"sft_coef": 0.3, "rl_coef": 20.0, "max_completion_length": 32}, objective(32, 0.3, 20.0, 0.001)),
    ({"entropy_coef": 0.0, "scale_rewards": "group", "epsilon": 0.2}, objective(8192, 1.0, 1.0, 0.0, printed=True)),
]
