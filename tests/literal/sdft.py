"""2601.19897 on the sampled token as TRL has it, and its weighted divergence."""

from literal.sdpo import compared, sampled

CASES = [
    ({}, sampled(2.0)),
    ({"teacher": "policy", "distillation_is_clip": None}, sampled(None)),
    ({"distillation_mode": "full_logits"}, compared(2.0)),
]
