"""2308.01825: the mean negative log-likelihood of distinct correct answers. `keep` has dropped the others."""

import torch
from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def literal(data: Numbers) -> Tensor:
    rows = data.rows(Source.ROLLOUT)
    assert all(data.samples.correct[row] for row, _ in rows)
    total = torch.stack([-data.logp[mask].sum() for _, mask in rows]).sum()
    return total / sum(int(mask.sum()) for _, mask in rows)


CASES = [({}, literal), ({"num_generations": 8}, literal)]
