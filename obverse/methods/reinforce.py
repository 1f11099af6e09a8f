"""The policy gradient itself."""

from typing import Literal

from obverse.errors import ConfigError
from obverse.estimator import Method, Term
from obverse.estimator.parts import (
    AboveMemory,
    GreedyReward,
    PerSample,
    PerToken,
    Request,
    Reward,
    RunningMean,
    Whitened,
)
from obverse.types import Source


def reinforce(
    num_generations: int = 1,
    baseline: Literal["none", "batch", "running", "greedy"] = "none",
    momentum: float = 0.95,
    scale_rewards: Literal["none", "batch"] = "none",
    token_mean: bool = False,
) -> Method:
    """REINFORCE: raise the log-probability of own samples in proportion to their reward.

    Paper     Williams 1992; as a row of the unified estimator, https://arxiv.org/abs/2509.04419, table 1. The batch
              baseline is REINFORCE++, https://arxiv.org/abs/2501.03262 [mem], the greedy one ReMax,
              https://arxiv.org/abs/2310.10505 [mem].
    Equation  grad J = E[ (R(y) - b) grad log pi_theta(y) ]. b = 0 (none); the update's mean reward (batch); the mean
              reward of the run before this update, b <- b + (1 - momentum) (mean R - b) (running); the reward of the
              problem's greedy answer (greedy).
    Estimator c_t = (R_i - b) / B: no mask, pi_ref = pi_theta; with token_mean / N in place of / B.
    Paper writes  Table 1 has A = +1 or -1; with rewards of 0 and 1 a wrong answer counts nothing.
    Code does     REINFORCE++ (OpenRLHF, verl): returns whitened over all tokens of the batch, then a token mean.
                  The batch there is the rank's or the experience's, here it is the update. verl's ReMax: returns to go
                  minus the greedy answer's reward, not whitened; a token mean.
    We do         The sum over each sequence, then the mean over sequences: the gradient of the expected reward itself.
                  baseline="batch" takes off the mean over all rollout tokens of the update, scale_rewards="batch" also
                  divides by their std (population, variance at least 1e-8); with token_mean=True that is REINFORCE++
                  without its KL and its clip. The greedy answer is graded, never trained; baseline="greedy" with
                  token_mean=True is verl's ReMax.
    Defaults  No baseline: the textbook's. One sample per problem; learning_rate 1e-6 as in TRL's RLOO [derived];
              momentum 0.95, which forgets within about 20 updates [derived].
    Pitfalls  Equal rewards do not give zero without a baseline: when everything is right, everything is raised. With
              baseline="batch" only an update with equal rewards gives zero; with "running" only once the mean
              has come to them, and it begins at 0; with "greedy" only where the greedy answer has the same reward.
              "greedy" costs one more sample per problem. On policy only: without a ratio, a second update on one
              collection is biased.
    Authors' names  OpenRLHF: advantage_estimator=reinforce is baseline="batch", scale_rewards="batch", token_mean=True;
              verl: adv_estimator=remax is baseline="greedy", token_mean=True.
    Proven    literal objective: the equation, differentiated by autograd.
    Options
        num_generations: rollouts per problem
        baseline: subtract nothing, the update's mean reward, the run's mean, or the greedy answer's reward
        momentum: decay of the running mean reward, with baseline=running
        scale_rewards: divide rewards by the update's standard deviation (batch), or not; needs baseline=batch
        token_mean: average over all tokens instead of summing per sequence
    """
    if scale_rewards == "batch" and baseline != "batch":
        raise ConfigError('scale_rewards="batch" divides the distance to the batch\'s mean: it needs baseline="batch"')
    whitened = Whitened(scale=scale_rewards == "batch")
    advantages = {"none": Reward(), "batch": whitened, "running": AboveMemory(), "greedy": AboveMemory()}
    memories = {"running": RunningMean(momentum), "greedy": GreedyReward()}
    normalizer = PerToken() if token_mean else PerSample()
    return Method(
        ask=Request(rollouts=num_generations, greedy=int(baseline == "greedy")),
        terms=(Term(Source.ROLLOUT, advantages[baseline], normalizer=normalizer),),
        memory=memories.get(baseline),
        run={"learning_rate": 1e-6},
    )
