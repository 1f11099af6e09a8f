"""The stage baseline of 2505.16984: UFT's loss; only the hints' lengths differ."""

from literal.uft import objective

CASES = [
    ({}, objective()),
    ({"beta": 0.2, "hint_coef": 0.1, "epsilon": 0.1, "entropy_coef": 0.0}, objective(0.2, 0.1, 0.0, clip=0.1)),
]
