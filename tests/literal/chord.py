"""2508.11408: (1 - mu) GRPO, a token mean over own samples, + mu NLL times a detached p (1 - p), a token mean."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(mu: float, phi: bool, low: float = 0.2, high: float = 0.2) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        rows = data.rows(Source.ROLLOUT)
        own = {row for row, _ in rows}
        surrogate, num_own = torch.zeros((), dtype=torch.float64), 0
        for row, mask in rows:
            rewards = data.samples.reward[[member for member in data.members(row) if member in own]]
            advantage = (data.samples.reward[row] - rewards.mean()) / (rewards.std() + 1e-6)
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            surrogate = surrogate + torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage).sum()
            num_own += len(ratio)
        likelihood, num_shown = torch.zeros((), dtype=torch.float64), 0
        for _, mask in data.rows(Source.DEMONSTRATION):
            logp = data.logp[mask]
            probability = logp.exp().detach()
            likelihood = likelihood + (logp * probability * (1 - probability) if phi else logp).sum()
            num_shown += len(logp)
        return -(1 - mu) * surrogate / num_own - mu * likelihood / num_shown

    return literal


# the exam stands at the start of the run: mu is its peak, or 0 under a warm-up
CASES = [
    ({}, objective(0.1, phi=True)),
    ({"phi": False, "mu_peak": 0.9, "mu_valley": 0.05, "mu_decay": 0.2}, objective(0.9, phi=False)),
    ({"mu_peak": 0.9, "mu_warmup": 0.1}, objective(0.0, phi=True)),
    ({"epsilon": 0.1, "epsilon_high": 0.28}, objective(0.1, phi=True, low=0.1, high=0.28)),
]
