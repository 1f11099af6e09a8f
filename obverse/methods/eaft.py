"""Demonstrations weighted by how undecided the policy is at each token."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import EntropyShare, PerToken, Request
from obverse.types import Source

TOP = 20  # tokens of the entropy


def eaft(alpha: float = 1.0) -> Method:
    """EAFT: SFT with each token's loss times the entropy of the policy's most likely tokens there.

    Paper     Entropy-Adaptive Fine-Tuning, https://arxiv.org/abs/2601.02151 [abs].
    Equation  L = -(1/N) sum_t (H_t / 3)^alpha log p_t, H_t the entropy of the renormalized 20 most likely tokens,
              without gradient.
    Estimator c_t = (H_t / 3)^alpha / N: no mask, pi_ref = pi_theta, A = (H / 3)^alpha.
    Paper writes  Tokens that contradict what the policy is sure of (low probability and low entropy) do the damage of
                  SFT; weights by entropy spare it. It normalizes by ln 20 = 2.9957 [abs].
    Code does     LLaMA-Factory divides by 3.0, a mean over the tokens of the step [code]; the authors' repository was
                  not read.
    We do         The code's. The 20 tokens' entropy is computed with the log-probs, by chunks of the head; the column
                  `entropy`, in metrics.jsonl too, is this one. In step files `entropy` is taken as it is given, so
                  that it should be that of 20 tokens.
    Defaults  alpha 1 [code]; learning_rate 2e-5, linear, as sft's [derived].
    Pitfalls  A token of which the policy is certain has weight 0 whatever it is, also where the demonstration says
              otherwise: new facts are learned slowly. The weights shrink the step. Equal rewards do not give zero:
              rewards are not read. An entropy bonus cannot be added: it would need the entropy of all tokens.
    Authors' names  LLaMA-Factory: use_eaft_loss, eaft_alpha -> alpha.
    Proven    peer: LLaMA-Factory@ff6d4d12e, its EAFT loss, in float64.
    Options
        alpha: exponent of a token's entropy in its weight; 0 is sft
    """
    return Method(
        ask=Request(demonstrations=1),
        terms=(Term(Source.DEMONSTRATION, EntropyShare(alpha), normalizer=PerToken()),),
        entropy_top_k=TOP,
        run={"learning_rate": 2e-5, "lr_scheduler_type": "linear"},
    )
