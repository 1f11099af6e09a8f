"""The policy gradient itself."""

from typing import Literal

from obverse.errors import ConfigError
from obverse.estimator import Term
from obverse.method import Method
from obverse.parts import PerSample, PerToken, Request, Reward, Whitened
from obverse.records import Source


def reinforce(
    num_generations: int = 1,
    baseline: Literal["none", "batch"] = "none",
    scale_rewards: Literal["none", "batch"] = "none",
    token_mean: bool = False,
) -> Method:
    """REINFORCE: raise the log-probability of own samples in proportion to their reward.

    Paper     Williams 1992; as a row of the unified estimator, https://arxiv.org/abs/2509.04419, table 1. The batch
              baseline is REINFORCE++, https://arxiv.org/abs/2501.03262 [mem].
    Equation  grad J = E[ (R(y) - b) grad log pi_theta(y) ], b = 0 or the update's mean reward.
    Estimator c_t = (R_i - b) / B: no mask, pi_ref = pi_theta; with token_mean / N in place of / B.
    Paper writes  Table 1 has A = +1 or -1; with rewards of 0 and 1 a wrong answer counts nothing.
    Code does     REINFORCE++ (OpenRLHF, verl): returns whitened over all tokens of the batch, then a token mean.
                  The batch there is the rank's or the experience's, here it is the update.
    We do         The sum over each sequence, then the mean over sequences: the gradient of the expected reward itself.
                  baseline="batch" takes off the mean over all rollout tokens of the update, scale_rewards="batch" also
                  divides by their std (population, variance at least 1e-8); with token_mean=True that is REINFORCE++
                  without its KL and its clip.
    Defaults  No baseline: the textbook's. One sample per problem; learning_rate 1e-6 as in TRL's RLOO [derived].
    Pitfalls  Equal rewards do not give zero without a baseline: when everything is right, everything is raised; with
              baseline="batch" only an update whose rewards are all equal gives zero. Two known baselines are not here:
              a running mean needs a number kept from update to update, ReMax's needs a greedy sample per problem. On
              policy only: without a ratio, a second update on one collection is biased.
    Authors' names  OpenRLHF: advantage_estimator=reinforce is baseline="batch", scale_rewards="batch", token_mean=True.
    """
    if scale_rewards == "batch" and baseline == "none":
        raise ConfigError('scale_rewards="batch" divides the distance to the batch\'s mean: it needs baseline="batch"')
    advantage = Reward() if baseline == "none" else Whitened(scale=scale_rewards == "batch")
    share = PerToken() if token_mean else PerSample()
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(Term(Source.ROLLOUT, advantage, share=share),),
        run={"learning_rate": 1e-6},
    )
