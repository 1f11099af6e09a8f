"""2602.04879: r A where the binary divergence on the sampled token is within its bound; r is capped and not derived."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(
    form: str, low: float, high: float, cap: float, length: int = 3000, by: str = "behavior"
) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total, rows = torch.zeros((), dtype=torch.float64), data.rows(Source.ROLLOUT)
        for row, mask in rows:
            advantage = float(data.samples.reward[row] - data.samples.reward[data.members(row)].mean())
            at = mask.nonzero()[:, 0].tolist()
            for token in at:
                p = float(data.logp[token].detach().exp())
                mu = float(getattr(data.tokens, by)[token].exp())
                ratio = p / float(data.tokens.behavior[token].exp())
                if form == "tv":
                    is_inside = p - mu <= high if advantage > 0 else p - mu >= -low
                else:
                    a, b = torch.tensor([mu, 1 - mu]), torch.tensor([p, 1 - p])
                    divergence = float((a.double() * (a.double() / b.double()).log()).sum())
                    moves_back = p <= mu if advantage > 0 else p >= mu
                    is_inside = moves_back or divergence <= (high if advantage > 0 else low)
                if is_inside:
                    total = total - min(ratio, cap) * advantage * data.logp[token]
        return total / (length * len(rows))

    return literal


CASES = [
    ({}, objective("tv", 0.15, 0.15, 20.0)),
    ({"epsilon": 0.05, "epsilon_high": 0.3, "ratio_cap": 1.5}, objective("tv", 0.05, 0.3, 1.5)),
    ({"form": "kl"}, objective("kl", 0.05, 0.05, 20.0)),
    ({"form": "kl", "epsilon": 0.2, "epsilon_high": 0.01}, objective("kl", 0.2, 0.01, 20.0)),
    ({"epsilon": 0.1, "max_completion_length": 30}, objective("tv", 0.1, 0.1, 20.0, 30)),
    ({"sampled_by": "sampler"}, objective("tv", 0.15, 0.15, 20.0, by="sampler")),
    ({"form": "kl", "sampled_by": "sampler"}, objective("kl", 0.05, 0.05, 20.0, by="sampler")),
]
