"""A soft gate in place of the clip."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import Behavior, PerSequence, Request, Soft, Standardized
from obverse.types import Source


def sapo(num_generations: int = 8, tau_pos: float = 1.0, tau_neg: float = 1.05) -> Method:
    """SAPO: GRPO with a smooth gate as its clip, a little narrower for negative advantages.

    Paper     Soft Adaptive Policy Optimization, https://arxiv.org/abs/2511.20347 [mem].
    Equation  J = mean_i mean_t f(r_t) A_i, f(r) = (4 / tau) sigmoid(tau (r - 1)), tau = tau_pos for A_i > 0 and tau_neg
              else; r_t = pi_theta / pi_old, A_i = (R_i - mean R) / std R over the problem's group.
    Estimator c_t = 4 s (1 - s) r_t A_i / (n_i B), s = sigmoid(tau (r_t - 1)): pi_ref = pi_old, 4 s (1 - s) as the mask.
              It is 1 at r = 1, so that on policy SAPO is GRPO without KL.
    Paper writes  The mean over a sequence's tokens, then over sequences.
    Code does     verl and TRL: the same weight.
    We do         The paper's, B counted over the whole update, unbiased std, eps 1e-6. A group with equal rewards
                  stays in B and has zero advantage.
    Defaults  tau_pos 1.0, tau_neg 1.05: the paper's [2nd], as in verl and TRL [code]. 8 samples and learning_rate 1e-6
              as in TRL's GRPO [code].
    Pitfalls  The gate narrows slowly: r = 2 still has the weight 0.79 (times r). A problem that is never solved teaches
              nothing.
    Authors' names  verl: the same; TRL: sapo_temperature_pos -> tau_pos, sapo_temperature_neg -> tau_neg.
    Proven    peer: TRL 1.16, GRPOTrainer with loss_type sapo (make test-parity)
    Options
        num_generations: rollouts per problem
        tau_pos: steepness of the soft clip for positive advantages
        tau_neg: steepness of the soft clip for other advantages
    """
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(Term(Source.ROLLOUT, Standardized(), Behavior(), Soft(tau_pos, tau_neg), normalizer=PerSequence()),),
        run={"learning_rate": 1e-6},
    )
