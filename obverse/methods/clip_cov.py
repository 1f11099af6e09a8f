"""GRPO that spares the policy's entropy by dropping a few tokens at random among those that lower it."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import Behavior, ClipCovariance, PerToken, Request, Standardized
from obverse.types import Source


def clip_cov(
    num_generations: int = 8,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    clip_cov_ratio: float = 2e-4,
    clip_cov_lb: float = 1.0,
    clip_cov_ub: float = 5.0,
) -> Method:
    """Clip-Cov: GRPO without a KL, and without a few tokens of high log-prob and high advantage.

    Paper     The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models,
              https://arxiv.org/abs/2505.22617 [mem].
    Equation  J = (1/N) sum_t min(r_t A_i, clip(r_t, 1 - epsilon, 1 + epsilon) A_i) over the tokens that are kept;
              dropped is a share of the tokens with lb < (A_i - mean A)(log p_t - mean log p) < ub.
    Estimator c_t = 1_kept 1_clip r_t A_i / N: pi_ref = pi_old, PPO's clip and the dropped tokens as the mask.
    Paper writes  The covariance of log-prob and advantage is what lowers the entropy in a step, and few tokens carry
                  most of it.
    Code does     verl: means and the random choice over a micro batch, max(1, 2e-4 N) tokens of those that PPO's clip
                  keeps; token mean; std with eps 1e-6 [code].
    We do         Means and choice over the rollout tokens of the whole update, so that no split into micro batches or
                  ranks matters; it takes a first forward pass of the policy per optimizer step. The choice is not
                  random but a fixed function of problem, position, sampling log-prob and progress.
    Defaults  clip_cov_ratio 2e-4, bounds 1 and 5, epsilon 0.2 [code]; num_generations 8, learning_rate 1e-6 are those
              of grpo [derived].
    Pitfalls  In a small update one token is 2e-4 of nothing: at least one is dropped wherever one is between the
              bounds. Equal rewards of a group give zero, but its tokens count in the means.
    Authors' names  clip_cov_ratio, clip_cov_lb, clip_cov_ub; clip_ratio_low -> epsilon, clip_ratio_high ->
              epsilon_high.
    Proven    literal objective: verl's formula over the whole update, differentiated by autograd.
    Options
        num_generations: rollouts per problem
        epsilon: clip range of the importance ratio: 1 - epsilon to 1 + epsilon
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high; none: epsilon
        clip_cov_ratio: share of the update's tokens that is dropped, at least one token
        clip_cov_lb: covariance above which a token may be dropped
        clip_cov_ub: covariance below which a token may be dropped
    """
    if not 0 < clip_cov_ratio <= 1 or clip_cov_lb >= clip_cov_ub:
        raise ValueError("clip_cov_ratio must be above 0 and at most 1, and clip_cov_lb below clip_cov_ub")
    high = epsilon if epsilon_high is None else epsilon_high
    mask = ClipCovariance(epsilon, high, clip_cov_ratio, clip_cov_lb, clip_cov_ub)
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(Term(Source.ROLLOUT, Standardized(), Behavior(), mask, normalizer=PerToken()),),
        run={"learning_rate": 1e-6},
    )
