"""The baseline R3 of 2505.16984: UFT's loss without the hint's part."""

from literal.uft import objective

CASES = [
    ({}, objective(hint=0.0)),
    ({"beta": 0.2, "epsilon": 0.1, "entropy_coef": 0.0}, objective(0.2, 0.0, 0.0, clip=0.1)),
]
