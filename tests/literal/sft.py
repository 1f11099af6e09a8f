"""2509.04419 table 1, TRL's normalization: the mean negative log-likelihood over all demonstration tokens."""

from exam.batches import Numbers
from torch import Tensor

from obverse.types import Source


def literal(data: Numbers) -> Tensor:
    return -data.logp[data.mask(Source.DEMONSTRATION)].mean()


CASES = [({}, literal)]
