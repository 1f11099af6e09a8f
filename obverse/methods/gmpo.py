"""The geometric mean of the tokens' clipped ratios."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import ClippedMean, PerSequence, Request, Standardized, TokenClip
from obverse.types import Source


def gmpo(num_generations: int = 8, epsilon: float = 0.4, epsilon_high: float | None = None) -> Method:
    """GMPO: GRPO with the geometric in place of the arithmetic mean of a sequence's clipped token ratios.

    Paper     Geometric-Mean Policy Optimization, https://arxiv.org/abs/2507.20673 [mem]; callsys/GMPO [code].
    Equation  J = mean_i G_i A_i, G_i = exp(mean_t d_t'), d_t = log pi_theta - log pi_old, d' = min(d, epsilon) where
              A_i > 0 and max(d, -epsilon) where A_i < 0; A_i = (R_i - mean R) / std R over the problem's group.
    Estimator c_t = 1_clip(d_t) G_i A_i / (n_i B): pi_ref = pi_theta / G_i, the clip of each token's own ratio as the
              mask. Unlike GSPO, the clip is per token and inside the mean.
    Paper writes  [mem] { prod_t min(r_t^sgn A, clip(r_t, e^-0.4, e^0.4)^sgn A)^sgn A }^(1 / n_i) A_i.
    Code does     The same in log space with a symmetric clamp to 0.4; for A < 0 it keeps d >= -epsilon. One sequence
                  per micro batch; std with eps 1e-8; no KL.
    We do         The paper's, B counted over the whole update, unbiased std, eps 1e-6. epsilon is in log units. A group
                  with equal rewards stays in B and has zero advantage.
    Defaults  epsilon 0.4, on both sides unless epsilon_high is given; 8 samples, learning_rate 1e-6, constant: the
              authors' script for Qwen2.5-Math-7B [code].
    Pitfalls  epsilon bounds a *log*-ratio: 0.4 is the range 0.67 to 1.49. The advantage's sign is that of R - mean R. A
              problem that is never solved has no gradient.
    Authors' names  cliprange -> epsilon, num_samples -> num_generations.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        num_generations: rollouts per problem
        epsilon: bound of a token's log-ratio, not of its ratio
        epsilon_high: upper bound of a token's log-ratio; none: epsilon
    """
    high = epsilon if epsilon_high is None else epsilon_high
    reference, mask = ClippedMean(epsilon, high), TokenClip(epsilon, high)
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(Term(Source.ROLLOUT, Standardized(), reference, mask, normalizer=PerSequence()),),
        run={"learning_rate": 1e-6},
    )
