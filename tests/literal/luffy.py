"""2504.14945: f(p) A on demonstrations, r A on own samples, one sum / L and the mean over all samples."""

from collections.abc import Callable

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source

Shape = Callable[[Tensor], Tensor]


def objective(
    shape: Shape, length: int = 8192, entropy_coef: float = 0.001, printed: bool = False, rejects: bool = False
) -> Callable[[Numbers], Tensor]:
    def literal(data: Numbers) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        own, shown = data.rows(Source.ROLLOUT), data.rows(Source.DEMONSTRATION)
        for row, mask in [*own, *shown]:
            rewards = data.samples.reward[data.members(row)]
            advantage = data.samples.reward[row] - rewards.mean()
            if printed:
                advantage = advantage / (rewards.std() + 1e-6)
            if data.mask(Source.DEMONSTRATION)[mask].any():
                place = data.tokens.position[mask].double()
                die = (data.samples.uniform[row] + 0.7548776662 * place) % 1.0  # the exam stands at progress 0
                probability = data.logp[mask].exp()
                accepted = (die < probability.detach()).double() / probability.detach()
                surrogate = (accepted * probability if rejects else shape(probability)) * advantage
            else:
                ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
                surrogate = ratio * advantage
                if printed:
                    surrogate = torch.min(surrogate, ratio.clamp(0.8, 1.2) * advantage)
            total = total - surrogate.sum() / length / (len(own) + len(shown))
        return total - entropy_coef * data.entropy.mean()

    return literal


CASES = [
    ({}, objective(lambda p: p / (p + 0.1))),
    ({"gamma": 0.5, "entropy_coef": 0.0, "max_completion_length": 32}, objective(lambda p: p / (p + 0.5), 32, 0.0)),
    ({"shaping": "none"}, objective(lambda p: p)),
    ({"shaping": "square_root"}, objective(lambda p: p.sqrt())),
    ({"shaping": "pow", "exponent": 0.3}, objective(lambda p: p**0.3)),
    ({"shaping": "logp", "shaping_scale": 0.7}, objective(lambda p: 0.7 * p.log())),
    ({"shaping": "p_logp", "shaping_scale": 0.7}, objective(lambda p: p + 0.7 * p.log())),
    ({"shaping": "classic_reject_token"}, objective(lambda p: p, rejects=True)),
    ({"scale_rewards": "group", "epsilon": 0.2}, objective(lambda p: p / (p + 0.1), printed=True)),
]
