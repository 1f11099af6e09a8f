"""Dynamic fine-tuning: SFT with each token weighted by its probability."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import PerToken, Request, Unit
from obverse.types import Source


def dft() -> Method:
    """DFT: supervised fine-tuning with every token's loss times its own probability.

    Paper     On the Generalization of SFT: A Reinforcement Learning Perspective with Reward Rectification,
              https://arxiv.org/abs/2508.05629, eq. 9.
    Equation  L = -E sum_t sg(p_t) log p_t, p_t = pi_theta(y_t | x, y_<t), sg: no gradient through it.
    Estimator c_t = p_t / N: no mask, pi_ref = 1, A = 1. The gradient is that of -(1/N) sum_t p_t: it maximizes the
              probability itself, the one-step policy gradient with reward 1[a = y_t].
    Paper writes  A sum over tokens in expectation over demonstrations; eq. 8, the trajectory's, lacks a minus sign.
    Code does     The authors average each micro batch's tokens, then micro batches; TRL's loss_type "dft" divides by
                  the tokens of the whole step. With sequence parallelism the authors' branch is plain SFT.
    We do         One token mean over the update, as TRL. Training on one's own correct samples instead of
                  demonstrations is the paper's second setting: give them as the data's demonstrations.
    Defaults  learning_rate 5e-5 (2e-5 for Llama-3.1-8B), cosine decay, weight_decay 0.01, adam_beta2 0.95: the paper
              [paper], which has batches of 256, one epoch and 10 % warm-up as well (--warmup_steps counts steps here).
    Pitfalls  Equal rewards do not give zero: rewards are not read. Unlikely tokens are left behind, so it learns
              little that is new to the model, and entropy falls quickly. Not the DFT of 2502.18679.
    Authors' names  none: the method has no options.
    Proven    peer: TRL 1.16, SFTTrainer with loss_type dft (make test-parity)
    """
    return Method(
        ask=Request(demonstrations=1),
        terms=(Term(Source.DEMONSTRATION, reference=Unit(), normalizer=PerToken()),),
        run={"learning_rate": 5e-5, "lr_scheduler_type": "cosine", "weight_decay": 0.01, "adam_beta2": 0.95},
    )
