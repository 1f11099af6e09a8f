"""2506.19767: L_SFT + L_demo-RL + L_self, each a token mean, or HPT's sums over a constant."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(
    sft: float = 0.5, rl: float = 0.1, per_token: bool = False, length: int | None = None, raised: str = "logp"
) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        own, shown = data.rows(Source.ROLLOUT), data.rows(Source.DEMONSTRATION)
        num_own, num_shown = (sum(int(mask.sum()) for _, mask in rows) for rows in (own, shown))
        size_own = length * (len(own) + len(shown)) if length else num_own
        size_shown = length * (len(own) + len(shown)) if length else num_shown
        entropy, total = data.entropy.detach(), torch.zeros((), dtype=torch.float64)
        for row, mask in shown:
            mean = entropy[mask] if per_token else entropy[mask].mean()
            total = total - (sft * torch.exp(-mean) * data.logp[mask]).sum() / num_shown
            rewards = data.samples.reward[data.members(row)]
            advantage = (data.samples.reward[row] - rewards.mean()) / (rewards.std() + 1e-6)
            total = total - (data.logp[mask].exp() * advantage).sum() / size_shown
        for row, mask in own:
            mean = entropy[mask] if per_token else entropy[mask].mean()
            logp, behavior = data.logp[mask], data.tokens.behavior[mask]
            gain = {"logp": logp, "p": logp.exp(), "ratio": (logp - behavior).exp()}[raised]
            if data.samples.reward[row] == 1:
                total = total - (rl * torch.exp(mean) * gain).sum() / size_own
            else:
                total = total + gain.sum() / size_own
        return total

    return literal


CASES = [
    ({}, objective()),
    ({"entropy_level": "token", "sft_coef": 0.3, "rl_coef": 0.2}, objective(0.3, 0.2, per_token=True)),
    ({"surrogate": "p"}, objective(raised="p")),
    ({"surrogate": "ratio"}, objective(raised="ratio")),
    ({"loss_type": "constant", "max_completion_length": 64}, objective(length=64)),
]
