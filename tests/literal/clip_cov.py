"""2505.22617: the clipped surrogate over the tokens that are not dropped; means and choice over the whole update."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def advantages(data: Numbers) -> dict[int, Tensor]:
    """(R - mean) / (std + 1e-6) of each rollout, by its row."""
    scores = {}
    for row, _ in data.rows(Source.ROLLOUT):
        rewards = data.samples.reward[[member for member in data.members(row) if is_rollout(data, member)]]
        scores[row] = (data.samples.reward[row] - rewards.mean()) / (rewards.std() + 1e-6)
    return scores


def is_rollout(data: Numbers, row: int) -> bool:
    return bool(data.samples.counts[row, int(Source.ROLLOUT)] > 0)


def covariances(data: Numbers, scores: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
    """Each token's advantage and its covariance with the log-prob, 0 outside rollouts; [T] each."""
    advantage = torch.zeros_like(data.logp)
    for row, mask in data.rows(Source.ROLLOUT):
        advantage = advantage.masked_fill(mask, float(scores[row]))
    own, logp = data.mask(Source.ROLLOUT), data.logp.detach()
    return advantage, (advantage - advantage[own].mean()) * (logp - logp[own].mean()) * own


def objective(
    share: float, lowest: float, highest: float, low: float = 0.2, high: float = 0.2
) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        advantage, covariance = covariances(data, advantages(data))
        own, tokens = data.mask(Source.ROLLOUT), data.tokens
        ratio = torch.exp(data.logp - tokens.behavior)
        surrogate = torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
        places = []
        for place in range(len(own)):
            r, a = float(ratio[place].detach()), float(advantage[place])
            clipped = (a > 0 and r > 1 + high) or (a < 0 and r < 1 - low)
            if own[place] and not clipped and lowest < float(covariance[place]) < highest:
                places.append(place)

        def number(place: int) -> float:  # the exam stands at progress 0
            uniform = float(data.samples.uniform[tokens.sample[place]])
            return (uniform + 0.7548776662 * int(tokens.position[place]) + 1e4 * abs(float(tokens.behavior[place]))) % 1

        dropped = sorted(places, key=number)[: max(1, int(share * int(own.sum())))]
        kept = [place for place in range(len(own)) if own[place] and place not in dropped]
        return -surrogate[kept].sum() / int(own.sum())

    return literal


CASES = [
    ({}, objective(2e-4, 1.0, 5.0)),
    ({"clip_cov_ratio": 0.2, "clip_cov_lb": 0.05, "clip_cov_ub": 3.0}, objective(0.2, 0.05, 3.0)),
    (
        {"clip_cov_ratio": 0.1, "clip_cov_lb": 0.0, "epsilon": 0.1, "epsilon_high": 0.4},
        objective(0.1, 0.0, 5.0, 0.1, 0.4),
    ),
]
