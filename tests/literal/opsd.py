"""2601.18734 on the sampled token, and its divergence: no ratio in either."""

from literal.sdpo import compared, sampled

CASES = [({}, sampled(None)), ({"distillation_mode": "full_logits"}, compared(None))]
