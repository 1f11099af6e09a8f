"""2408.06266: 1 - s(b L_w) + s(b L_l) of the log-ratios to the initial model, a mean over pairs."""

from literal.dpo import apo_zero, objective, separate

CASES = [
    ({}, objective(separate(apo_zero))),
    ({"beta": 0.7}, objective(separate(lambda better, worse: apo_zero(better, worse, 0.7)))),
]
