"""2306.13649: the mean divergence from the teacher over all trained tokens, own samples' and demonstrations'."""

from exam.batches import Numbers
from torch import Tensor


def literal(data: Numbers) -> Tensor:
    return data.divergence.mean()


CASES = [({}, literal), ({"beta": 1.0, "lmbda": 1.0}, literal)]
