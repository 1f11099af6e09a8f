"""An RL step is GRPO's or Dr. GRPO's clipped surrogate, an SFT step a token-mean NLL."""

from literal.sft_then_rl import likelihood, surrogate

CASES = [
    ({}, surrogate(), 0),
    ({"beta": 0.3, "epsilon": 0.1, "epsilon_high": 0.3}, surrogate(0.1, 0.3, 0.3), 0),
    ({"rl": "dr_grpo", "max_completion_length": 32}, surrogate(length=32), 0),
    ({"moments": "shared"}, likelihood, 1),
]
