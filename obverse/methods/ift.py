"""Imitation with inputs mixed with the model's own predictions, and weights from later losses."""

from typing import Literal

from obverse.errors import ConfigError
from obverse.estimator import Method, Term
from obverse.estimator.parts import Geometric, GreedyMix, PerSample, PerSequence, Propagated, Request
from obverse.types import Source


def ift(greedy_share: float = 0.2, gamma: float = 0.95, form: Literal["code", "paper"] = "code") -> Method:
    """IFT: SFT in which each token reads partly the model's own guesses and answers for the loss that follows it.

    Paper     Intuitive Fine-Tuning, https://arxiv.org/abs/2405.11870.
    Equation  L = mean over demonstrations of sum_t l_t C_t / sum_t C_t, l_t = -log pi_theta(y_t), C_t = sum over k >= t
              of gamma^(k - t) l_k, with gradients through C too (code); of (1/n) sum_t l_t (1 + gamma + ... + gamma^t)
              (paper). The response's embeddings are (1 - greedy_share) E(y_t) + greedy_share E(the policy's own argmax
              at that place), E the initial model's embeddings, frozen.
    Estimator code: c_t = [ C_t + P_t - L G_t ] / (S B), P_t the discounted loss up to t, G_t = 1 + ... + gamma^t,
              S = sum C, L = sum l C / S; paper: c_t = G_t / (n_i B). No mask, pi_ref = pi_theta.
    Paper writes  Eq. 21: the losses of all later tokens, which is a fixed weight by position.
    Code does     The weight is the discounted loss itself, normalized to mean 1 over the sequence and not detached;
                  with gamma = 0 all weights are 1. Sequence mean, then batch mean. The guess comes from a first
                  forward pass without gradient, shifted by one place. RMSprop.
    We do         The code's by default, form="paper" the printed one, with the printed sum divided by the sequence's
                  length. Any gamma = 0 with greedy_share = 0 is SFT with a mean per sequence. AdamW.
    Defaults  greedy_share 0.2, gamma 0.95: config/loss/ift.yaml [code]; learning_rate 5e-7, cosine, 3 epochs [code];
              the warm-up, 15 % of the steps in the commands and 10 % in the paper, is left to --warmup_steps.
    Pitfalls  Equal rewards do not give zero: rewards are not read. The code's weight is negative where a token is much
              better known than its sequence: such a token is unlearned a little. Two forward passes per update. The
              forms differ in kind: code favors hard tokens and what leads to them, paper late tokens.
    Authors' names  min_lambda = max_lambda -> greedy_share, gamma the same, propagation_type=loss -> form="code".
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        greedy_share: share of the policy's own greedy guess in each response token's input embedding
        gamma: discount of later tokens' losses, 0 to 1
        form: the authors' weights (code), or those of equation 21 (paper)
    """
    if not 0 <= gamma <= 1 or not 0 <= greedy_share <= 1:
        raise ConfigError("gamma and greedy_share must be between 0 and 1")
    term = Term(Source.DEMONSTRATION, Geometric(gamma), normalizer=PerSequence())
    if form == "code" and gamma:
        term = Term(Source.DEMONSTRATION, Propagated(gamma), normalizer=PerSample())
    return Method(
        ask=Request(demonstrations=1),
        terms=(term,),
        inputs=GreedyMix(greedy_share) if greedy_share else None,
        run={"learning_rate": 5e-7, "lr_scheduler_type": "cosine", "num_train_epochs": 3.0},
    )
