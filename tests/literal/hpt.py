"""2509.04419 eq. 9-12 with the authors' run script: no clip, no std; and the printed form, with both.

The gate has already chosen which samples are here; `test_keep` in tests/parts checks the gate itself.
"""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(
    length: int, sft_coef: float, entropy_coef: float, printed: bool = False, off_coef: float | None = None
) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        rows, shown = data.rows(Source.ROLLOUT), data.mask(Source.DEMONSTRATION)
        num_rows = len(rows) if off_coef is None else len(data.samples)
        for row, mask in rows:
            rewards = data.samples.reward[data.members(row)]
            advantage = data.samples.reward[row] - rewards.mean()
            ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
            if printed:
                advantage = advantage / (rewards.std() + 1e-6)
                ratio_a = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            else:
                ratio_a = ratio * advantage
            total = total - ratio_a.sum() / length / num_rows
        for row, mask in data.rows(Source.DEMONSTRATION) if off_coef is not None else []:
            probability = data.logp[mask].exp()
            shaped = probability / (probability + 0.1) * data.samples.reward[row]
            total = total - off_coef * shaped.sum() / length / num_rows
        if sft_coef and shown.any():
            total = total - sft_coef * data.logp[shown].mean()
        return total - entropy_coef * data.entropy.mean()

    return literal


def superrl() -> Callable[[Numbers], Tensor]:
    """2506.01096 v2: PPO's surrogate of the standardized reward on own samples, and SFT on demonstrations."""

    def literal(data: Numbers) -> Tensor:
        reinforced, imitated = [], []
        rows = data.rows(Source.ROLLOUT)
        for row, mask in rows:
            rewards = torch.stack([data.samples.reward[member] for member in data.members(row)])
            advantage = (rewards.new_tensor(float(data.samples.reward[row])) - rewards.mean()) / (rewards.std() + 1e-6)
            for logp, behavior in zip(data.logp[mask], data.tokens.behavior[mask], strict=True):
                ratio = (logp - behavior).exp()
                reinforced.append(torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage))
        for _, mask in data.rows(Source.DEMONSTRATION):
            imitated += [*data.logp[mask]]
        total = sum(reinforced, torch.zeros((), dtype=torch.float64)) / 8192 / max(len(rows), 1)
        return -total - sum(imitated, torch.zeros((), dtype=torch.float64)) / max(len(imitated), 1)

    return literal


# by the number of right members, the demonstration one of them: 1, 2, ..., 8
ON, SFT = (0, 0.125, 0.25, 0.5, 1, 1, 1, 1), (1, 0.5, 0.25, 0.125, 0, 0, 0, 0)


def soft(off: tuple[float, ...], off_coef: float = 1.0, rl_coef: float = 1.0) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, num_shown = torch.zeros((), dtype=torch.float64), int(data.mask(Source.DEMONSTRATION).sum())
        for row in range(len(data.samples)):
            rewards = data.samples.reward[data.members(row)]
            count = int((rewards == 1).sum()) - 1
            advantage = data.samples.reward[row] - rewards.mean()
            mask = data.tokens.sample == row
            logp = data.logp[mask]
            if data.mask(Source.ROLLOUT)[mask].any():
                gain = ON[count] * advantage * torch.exp(logp - data.tokens.behavior[mask]).sum()
            else:
                gain = off_coef * off[count] * advantage * (logp.exp() / (logp.exp() + 0.1)).sum()
                total = total - SFT[count] * logp.sum() / num_shown
            total = total - rl_coef * gain / 8192 / len(data.samples)
        return total - 0.001 * data.entropy.mean()

    return literal


CASES = [
    ({}, objective(8192, 1.0, 0.001)),
    ({"gate": 1, "sft_coef": 0.3, "max_completion_length": 32}, objective(32, 0.3, 0.001)),
    ({"entropy_coef": 0.0, "scale_rewards": "group", "epsilon": 0.2}, objective(8192, 1.0, 0.0, printed=True)),
    ({"gate": 0, "scale_rewards": "group", "epsilon": 0.2, "entropy_coef": 0.0, "rl_coef": 1.0}, superrl()),
    ({"failed": "off_policy", "off_coef": 0.7}, objective(8192, 0.0, 0.001, off_coef=0.7)),
    ({"failed": "mixed"}, objective(8192, 1.0, 0.001, off_coef=1.0)),
    ({"gate_type": "soft"}, soft((1,) * 8)),
    ({"gate_type": "soft", "soft_type": "never"}, soft((0,) * 8)),
    (
        {"gate_type": "soft", "soft_type": "between", "off_coef": 2.0, "rl_coef": 20.0},
        soft((0, 0.5, 1, 0.5, 0.25, 0.125, 0, 0), 2.0, 20.0),
    ),
]
