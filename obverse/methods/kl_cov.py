"""GRPO that spares the policy's entropy by holding back the few tokens that lower it most."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import Behavior, CovariancePenalty, PerToken, Request, Standardized
from obverse.types import Source


def kl_cov(num_generations: int = 8, kl_cov_ratio: float = 2e-4, ppo_kl_coef: float = 0.1) -> Method:
    """KL-Cov: GRPO without clip, and a penalty on the log-ratio of the tokens that lower the entropy most.

    Paper     The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models,
              https://arxiv.org/abs/2505.22617 [mem].
    Equation  J = (1/N) [ sum_t r_t A_i - ppo_kl_coef sum_{t in K} |log pi_theta - log pi_old| ]; K is the share of the
              tokens with the largest (A_i - mean A)(log p_t - mean log p).
    Estimator c_t = r_t A_i / N, pi_ref = pi_old, no mask; at tokens of K also - ppo_kl_coef sgn(d_t) / N,
              d = log pi_theta - log pi_old, pi_ref = pi_theta.
    Paper writes  As clip_cov; the penalty holds back where clip_cov drops.
    Code does     verl: means and K over a micro batch, |K| = max(1, 2e-4 N); no clip at all, not even on other tokens;
                  the coefficient is 0.1 in the configuration, 1 where the function falls back [code].
    We do         Means and K over the rollout tokens of the whole update, so that no split into micro batches or ranks
                  matters; it takes a first forward pass of the policy per optimizer step. K has
                  only tokens with a covariance above 0; ties with its last one are in it.
    Defaults  kl_cov_ratio 2e-4, ppo_kl_coef 0.1 [code]; num_generations 8, learning_rate 1e-6 are those of grpo
              [derived].
    Pitfalls  With one update per step d is 0 everywhere, and so is the penalty: kl_cov is then GRPO without a clip. It
              needs several updates per step (--num_mini_batches, --num_iterations). Nothing bounds the ratios of the
              other tokens. Equal rewards of all groups give zero; those of one do not if its tokens are in K.
    Authors' names  kl_cov_ratio, ppo_kl_coef.
    Proven    literal objective: verl's formula over the whole update, differentiated by autograd.
    Options
        num_generations: rollouts per problem
        kl_cov_ratio: share of the update's tokens that is penalized, at least one token
        ppo_kl_coef: weight of the penalty |log pi_theta - log pi_old| on these tokens
    """
    if not 0 < kl_cov_ratio <= 1:
        raise ValueError(f"kl_cov_ratio must be above 0 and at most 1, not {kl_cov_ratio:g}")
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(
            Term(Source.ROLLOUT, Standardized(), Behavior(), normalizer=PerToken()),
            Term(Source.ROLLOUT, CovariancePenalty(kl_cov_ratio), normalizer=PerToken(), weight=ppo_kl_coef),
        ),
        run={"learning_rate": 1e-6},
    )
