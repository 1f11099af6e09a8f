"""Group relative policy optimization, as in the paper."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import Behavior, Clip, PerSequence, Request, Standardized, TowardsAnchor
from obverse.types import Source


def grpo(
    num_generations: int = 8, epsilon: float = 0.2, epsilon_high: float | None = None, beta: float = 0.04
) -> Method:
    """GRPO: PPO's surrogate with the group's standardized reward as advantage, and a KL to the initial model.

    Paper     DeepSeekMath, https://arxiv.org/abs/2402.03300, eq. 3 (objective), eq. 4 (KL), sec. 4.1.2 (advantage).
    Equation  J = mean_i mean_t [ min(r_t A_i, clip(r_t, 1 - epsilon, 1 + epsilon) A_i) - beta k3_t ],
              r_t = pi_theta / pi_old, A_i = (R_i - mean R) / std R over the problem's group, k3 = e^(-d) + d - 1 with
              d = log pi_theta - log pi_anchor.
    Estimator c_t = [ 1_clip r_t A_i - beta (1 - e^(-d)) ] / (n_i B): pi_ref = pi_old, PPO's clip as the mask.
    Paper writes  Mean over a sequence's tokens, then over sequences.
    Code does     TRL's default loss_type (dapo) and verl's default (token mean) are *not* the paper's averaging; TRL's
                  `grpo` is. verl and TRL use the unbiased std; eps is 1e-6 (verl) or 1e-4 (TRL).
    We do         The paper's averaging over the whole update, unbiased std, eps 1e-6. A group with equal rewards stays
                  in the denominator B and has zero advantage.
    Defaults  epsilon 0.2 (TRL, verl), beta 0.04 and learning_rate 1e-6 (DeepSeekMath [mem]); num_generations 8 as in
              TRL and in HPT's baselines (the paper samples 64). epsilon_high is the upper bound, None for epsilon.
    Pitfalls  Equal rewards give zero only with beta = 0: the KL term still pulls towards the anchor. Dividing by the
              std favors very easy and very hard problems; dividing by n_i favors short right and long wrong answers
              (see dr_grpo). A problem that the model never solves has no gradient.
    Authors' names  TRL: the same; verl: kl_loss_coef, clip_ratio_low, clip_ratio_high, rollout.n.
    Proven    peer: TRL 1.16, GRPOTrainer with loss_type grpo (make test-parity)
    Options
        num_generations: rollouts per problem
        epsilon: clip range of the importance ratio: 1 - epsilon to 1 + epsilon
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high; none: epsilon
        beta: weight of the k3 estimate of the KL to the initial model, in the loss; 0 is off
    """
    high = epsilon if epsilon_high is None else epsilon_high
    surrogate = Term(Source.ROLLOUT, Standardized(), Behavior(), Clip(epsilon, high), normalizer=PerSequence())
    kl = Term(Source.ROLLOUT, TowardsAnchor(), normalizer=PerSequence(), weight=beta)
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(surrogate, kl) if beta else (surrogate,),
        run={"learning_rate": 1e-6},
    )
