"""A squared log-ratio to the policy that sampled holds the policy, in place of a clip."""

from obverse.errors import ConfigError
from obverse.estimator import Method, Term
from obverse.estimator.parts import BackToBehavior, PerToken, Request, Standardized
from obverse.types import Source


def dro(num_generations: int = 8, beta: float = 0.1) -> Method:
    """DRO: the advantage times the log-prob, minus beta / 2 times the squared log-ratio to the sampling policy.

    Paper     Offline Regularised Reinforcement Learning, https://arxiv.org/abs/2405.19107 [mem]; the form is verl's.
    Equation  J = (1/N) sum_i sum_t [ A_i log pi_theta(y_t) - (beta / 2) d_t^2 ], d_t = log pi_theta - log pi_old,
              A_i = (R_i - mean R) / std R over the problem's group.
    Estimator c_t = (A_i - beta d_t) / N: no mask, no ratio; a second term with A = -d_t pulls back to pi_old.
    Paper writes  A squared loss between reward and value plus log-ratio, of whole answers and with a learned value
              [mem].
    Code does     verl: c_t = A - beta d_t with the group's standardized reward; beta has no default [code].
    We do         verl's, a mean over all tokens of the update, unbiased std, eps 1e-6.
    Defaults  beta 0.1 [derived]; 8 samples and learning_rate 1e-6 as in TRL's GRPO [code].
    Pitfalls  Equal rewards do not give zero once the policy has moved: the second term still pulls back. With one
              update per collection d_t = 0 and beta has no effect. Without a ratio rare tokens weigh as much as others.
    Authors' names  verl: loss_mode dro, beta -> beta.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        num_generations: rollouts per problem
        beta: weight of half the squared log-ratio to the policy that sampled
    """
    if beta < 0:
        raise ConfigError(f"beta must be at least 0, not {beta:g}: a negative one drives the policy away")
    policy_gradient = Term(Source.ROLLOUT, Standardized(), normalizer=PerToken())
    pull_back = Term(Source.ROLLOUT, BackToBehavior(), normalizer=PerToken(), weight=beta)
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(policy_gradient, pull_back) if beta else (policy_gradient,),
        run={"learning_rate": 1e-6},
    )
