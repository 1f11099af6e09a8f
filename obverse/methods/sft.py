"""Supervised fine-tuning: imitate the demonstration."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import PerToken, Request
from obverse.types import Source


def sft() -> Method:
    """Supervised fine-tuning on demonstrations, normalized over the whole update.

    Paper     The classical objective; as a policy gradient in UPGE, https://arxiv.org/abs/2509.04419, table 1.
    Equation  L = -(1/N) sum over all demonstration tokens of log pi_theta(y_t | x, y_<t).
    Estimator c_t = 1/N: no mask, pi_ref = pi_theta, A = 1. It is the policy gradient of the reward 1[a = y_t] / pi.
    Paper writes  An expectation of the negative log-likelihood. HPT's eq. 12 divides by each sequence's length.
    Code does     TRL divides by the trained tokens of the whole optimizer step, over ranks and accumulation.
                  Old verl, and HPT's code, average micro batches' means, which favors short answers.
    We do         One token mean over the update (TRL's). The stop token is trained; prompt tokens never are.
    Defaults  learning_rate 2e-5, linear decay: TRL 1.16's SFTConfig [code]. Mathematics baselines use 1e-5 (UFT, verl)
              to 5e-5 (LUFFY, DFT) with cosine decay and 10 % warm-up [code].
    Pitfalls  Equal rewards do not give zero: rewards are not read. A loss that falls on memorized problems says nothing
              about held-out ones: watch the evaluation.
    Proven    peer: TRL 1.16, SFTTrainer (make test-parity)
    """
    return Method(
        ask=Request(demonstrations=1),
        terms=(Term(Source.DEMONSTRATION, normalizer=PerToken()),),
        run={"learning_rate": 2e-5, "lr_scheduler_type": "linear"},
    )
