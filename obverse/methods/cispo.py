"""Cap the importance weight instead of masking the token."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import CappedBehavior, PerToken, Request, Standardized
from obverse.types import Source


def cispo(num_generations: int = 8, epsilon_high: float = 4.0, epsilon: float | None = None) -> Method:
    """CISPO: REINFORCE with a truncated importance weight, so that no token loses its gradient.

    Paper     MiniMax-M1, https://arxiv.org/abs/2506.13585, section on CISPO.
    Equation  J = (1/sum n_i) sum_i sum_t sg(clip(r_t, 1 - epsilon, 1 + epsilon_high)) A_i log pi_theta(y_t),
              r_t = pi_theta / pi_old, A_i = (R_i - mean R) / std R over the problem's group.
    Estimator c_t = min(r_t, 1 + epsilon_high) A_i / N: no mask, pi_ref = max(pi_old, pi_theta / (1 + epsilon_high)).
              The unified-view paper (2509.04419) lists a mask here; the method has none.
    Paper writes  A clip on both sides, of which only the upper bound is tuned: the lower is effectively off.
    Code does     verl clips both sides: a token with a collapsed probability keeps the weight 1 - epsilon. TRL's
                  epsilon_high is the cap itself, min(r, epsilon_high); open-instruct caps at 1 + 0.272.
    We do         The upper cap 1 + epsilon_high only; epsilon adds the lower bound. Token mean over the whole update;
                  unbiased std, eps 1e-6. A group with equal rewards stays in N and has zero advantage.
    Defaults  epsilon_high 4.0, a cap of 5: ScaleRL's, as TRL documents it [2nd]; MiniMax does not print its own, and
              verl's example has 0.2 with a lower bound of 10, without effect [2nd]. epsilon None (or 1 and above): no
              lower bound. 8 samples and learning_rate 1e-6 as in TRL's GRPO [code].
    Pitfalls  1 + epsilon_high is the cap: TRL's 5.0 is 4.0 here. A problem that is never solved has no gradient.
    Authors' names  TRL: epsilon_high - 1 -> epsilon_high; verl: clip_ratio_high -> epsilon_high, clip_ratio_low ->
              epsilon.
    Proven    peer: TRL 1.16, GRPOTrainer with loss_type cispo (make test-parity)
    Options
        num_generations: rollouts per problem
        epsilon_high: the importance weight is capped at 1 + epsilon_high
        epsilon: lower bound of the importance weight, 1 - epsilon; none: no lower bound
    """
    reference = CappedBehavior(1 + epsilon_high, 0.0 if epsilon is None else 1 - epsilon)
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(Term(Source.ROLLOUT, Standardized(), reference, normalizer=PerToken()),),
        run={"learning_rate": 1e-6},
    )
