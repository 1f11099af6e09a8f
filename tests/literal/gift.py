"""2601.09233: the mean divergence from the tilted initial model, whose gradient is that of the cross entropy."""

from literal.gkd import literal

CASES = [({}, literal), ({"beta": 2.0, "smooth": 0.1}, literal)]
