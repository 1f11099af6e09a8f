"""GRPO on stale samples: the clip is as wide as a budget for the second moment of the log-ratios allows."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import Behavior, PerToken, Request, SecondMomentClip, Standardized
from obverse.types import Source


def m2po(
    num_generations: int = 8,
    M2_budget: float = 0.04,
    epsilon: float = 0.3,
    epsilon_high: float = 0.5,
) -> Method:
    """M2PO: GRPO with a clip that keeps the mean square of the harmful log-ratios within a budget, for stale samples.

    Paper     Prosperity before Collapse, https://arxiv.org/abs/2510.01161 [mem].
    Equation  J = (1/N) sum_t min(r_t A_i, clip(r_t, e^-tau, e^tau) A_i); tau is the largest |d| of a harmful
              token for which mean min(d^2, tau^2) <= M2_budget, d = log pi_theta - log pi_old; harmful: d A > 0.
    Estimator c_t = 1_clip r_t A_i / N: pi_ref = pi_old, PPO's clip with these bounds as the mask.
    Paper writes  A fixed clip drops most informative tokens of stale samples; a bound on the second moment drops few
                  [mem].
    Code does     The sign of the advantage is that of a sequence's first token; the bounds are at least 0.3 below and
                  0.5 above 1; over a micro batch [code].
    We do         tau over the rollout tokens of the whole update, so that no split into micro batches or ranks matters;
                  it takes a first forward pass of the policy per optimizer step.
    Defaults  M2_budget 0.04, floors 0.3 and 0.5 [code]; num_generations 8, learning_rate 1e-6 are those of grpo
              [derived].
    Pitfalls  With one update per step on fresh samples every log-ratio is 0 and nothing is clipped: it is for
              --async_sampling, several updates per step or a server that lags. Equal rewards of a group give zero.
    Authors' names  M2_budget.
    Proven    literal objective: the code's formula over the whole update, differentiated by autograd.
    Options
        num_generations: rollouts per problem
        M2_budget: most of the mean square of the harmful tokens' log-ratios, each cut at tau
        epsilon: least clip range below 1: the lower bound is at most 1 - epsilon
        epsilon_high: least clip range above 1: the upper bound is at least 1 + epsilon_high
    """
    if M2_budget <= 0:
        raise ValueError(f"M2_budget must be above 0, not {M2_budget:g}")
    mask = SecondMomentClip(M2_budget, epsilon, epsilon_high)
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(Term(Source.ROLLOUT, Standardized(), Behavior(), mask, normalizer=PerToken()),),
        run={"learning_rate": 1e-6},
    )
