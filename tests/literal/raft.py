"""2304.06767 with a verifier: the mean negative log-likelihood of correct rollouts; and 2504.11343's RAFT++.

Rollouts that were not chosen are not here: `keep` has dropped them.
"""

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def literal(data: Numbers) -> Tensor:
    return -data.logp[data.mask(Source.ROLLOUT)].mean()


def plus(data: Numbers) -> Tensor:
    mask = data.mask(Source.ROLLOUT)
    ratio = torch.exp(data.logp[mask] - data.tokens.behavior[mask])
    return -torch.min(ratio, ratio.clamp(0.8, 1.2)).mean()


CASES = [({}, literal), ({"select": "best"}, literal), ({"epsilon": 0.2}, plus)]
