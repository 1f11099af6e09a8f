"""GSPO without its division by the length."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import Clip, PerSample, Request, SequenceMean, Standardized
from obverse.types import Source


def luspo(num_generations: int = 8, epsilon: float = 2e-3, epsilon_high: float = 2.5e-3) -> Method:
    """LUSPO: GSPO with the loss of a sequence multiplied by its length, so that long answers do not weigh less.

    Paper     Length-Unbiased Sequence Policy Optimization, https://arxiv.org/abs/2602.05261 [abs].
    Equation  J = mean_i n_i min(s_i A_i, clip(s_i, 1 - epsilon, 1 + epsilon_high) A_i),
              s_i = (pi_theta(y_i) / pi_old(y_i))^(1 / n_i), A_i = (R_i - mean R) / std R over the problem's group.
    Estimator c_t = 1_clip(s_i) s_i A_i / B for all tokens of a sequence: pi_ref = pi_theta / s_i. Bounds are inclusive.
    Paper writes  GSPO's objective times the length.
    Code does     TRL: loss_type luspo with importance_sampling_level="sequence"; with the default, "token", it computes
                  another loss and only warns. Its std has eps 1e-4 [code].
    We do         TRL's with ratios of sequences, B counted over the whole update, unbiased std, eps 1e-6. A group with
                  equal rewards stays in B and has zero advantage.
    Defaults  epsilon 2e-3 and 2.5e-3: the paper's [2nd]. 8 samples and learning_rate 1e-6 as in
              TRL's GRPO [code].
    Pitfalls  epsilon is far smaller than PPO's, for s_i is a mean: 0.2 never clips. The gradient's norm grows with the
              lengths. With one update per collection every ratio is 1. A problem never solved has no gradient.
    Authors' names  TRL: the same.
    Proven    peer: TRL 1.16, GRPOTrainer with loss_type luspo and ratios of sequences (make test-parity)
    Options
        num_generations: rollouts per problem
        epsilon: lower clip bound of the sequence's ratio, 1 - epsilon
        epsilon_high: upper clip bound of the sequence's ratio, 1 + epsilon_high
    """
    clip = Clip(epsilon, epsilon_high)
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(Term(Source.ROLLOUT, Standardized(), SequenceMean(), clip, normalizer=PerSample()),),
        run={"learning_rate": 1e-6},
    )
