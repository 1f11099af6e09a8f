"""2508.05629 eq. 9: the token's loss times its own probability without gradient; the mean over all tokens."""

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def literal(data: Numbers) -> Tensor:
    total, num_tokens = torch.zeros((), dtype=torch.float64), 0
    for _, mask in data.rows(Source.DEMONSTRATION):
        logp = data.logp[mask]
        total = total - (logp.exp().detach() * logp).sum()
        num_tokens += len(logp)
    return total / num_tokens


CASES = [({}, literal)]
