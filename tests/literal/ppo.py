"""1707.06347 eq. 7 with a dual clip, and the clipped square of the critic; token means. The advantage is a column."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def objective(
    low: float, high: float, dual: float | None, value_clip: float | None, value_coef: float, k2: float = 0.0
) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        policy, critic, num = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64), 0
        for at in data.mask(Source.ROLLOUT).nonzero()[:, 0].tolist():
            tokens, advantage = data.tokens, data.tokens.advantage[at]
            ratio = torch.exp(data.logp[at] - tokens.behavior[at])
            gain = torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
            if dual is not None and advantage < 0:
                gain = torch.max(gain, dual * advantage)
            policy = policy - gain + k2 * (data.logp[at] - tokens.anchor[at]) ** 2 / 2
            value, old, returns = data.value[at], tokens.value[at], tokens.returns[at]
            error = (value - returns) ** 2
            if value_clip is not None:
                error = torch.max(error, (old + (value - old).clamp(-value_clip, value_clip) - returns) ** 2)
            critic, num = critic + error / 2, num + 1
        return (policy + value_coef * critic) / num

    return literal


CASES = [
    ({}, objective(0.2, 0.2, 3.0, 0.5, 1.0)),
    ({"epsilon": 0.1, "epsilon_high": 0.28, "dual_clip": 1.2}, objective(0.1, 0.28, 1.2, 0.5, 1.0)),
    ({"dual_clip": None, "value_clip": None, "value_coef": 0.1}, objective(0.2, 0.2, None, None, 0.1)),
    ({"value_clip": 0.05, "value_coef": 5.0}, objective(0.2, 0.2, 3.0, 0.05, 5.0)),
    ({"kl_coef": 0.05, "kl_target": 0.1}, objective(0.2, 0.2, 3.0, 0.5, 1.0)),
    (
        {"kl_coef": 0.05, "kl_in_reward": False, "kl_estimator": "k2"},
        objective(0.2, 0.2, 3.0, 0.5, 1.0, k2=0.05),
    ),
]
