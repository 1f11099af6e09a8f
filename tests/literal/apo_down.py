"""2408.06266: s(b L_w) + 1 - s(b (L_w - L_l)) of the log-ratios to the initial model, a mean over pairs."""

from literal.dpo import apo_down, objective, separate

CASES = [
    ({}, objective(separate(apo_down))),
    ({"beta": 0.7}, objective(separate(lambda better, worse: apo_down(better, worse, 0.7)))),
]
