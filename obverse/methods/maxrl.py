"""The success rate's logarithm as the objective: rare successes weigh more."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import Behavior, Clip, DoubleClip, PerToken, RelativeToMean, Request
from obverse.types import Source


def maxrl(
    num_generations: int = 16,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    dual_clip: float | None = 3.0,
) -> Method:
    """MaxRL: the group's centered reward divided by its mean, an estimate of the gradient of log success rate.

    Paper     MaxRL, https://arxiv.org/abs/2602.02710 [abs].
    Equation  J = (1/N) sum_i sum_t min(r_t A_i, clip(r_t, 1 - epsilon, 1 + epsilon_high) A_i), r_t = pi_theta / pi_old,
              A_i = (R_i - m) / (m + 1e-6), m the mean reward of the problem's group.
    Estimator c_t = 1_clip r_t A_i / N: pi_ref = pi_old, PPO's clip with a dual clip as the mask.
    Paper writes  Maximum likelihood of a right answer, of which expected reward is the first order in the failure rate.
    Code does     The equation in a fork of verl: clip 0.2, dual clip 3, token mean. A group of one has m = 0 there, so
                  that A = 1e6 R [code]. prime-rl has no 1e-6, and A = 0 where m is not positive.
    We do         The code's, N counted over the whole update; a group of one has zero advantage. Negative rewards are
                  refused: m could be 0 or negative.
    Defaults  16 samples of 256 problems, epsilon 0.2, dual clip 3, learning_rate 1e-6, gradient norm clipped at 0.3, no
              KL: the authors' script for Qwen3-1.7B-Base [code].
    Pitfalls  One right answer of n has A = n - 1, so the gradient's norm is set by the hardest problems that were
              solved: watch it. Penalties and KL in the reward make rewards negative, which stops the run. A problem
              that is never solved has no gradient.
    Authors' names  clip_ratio_low -> epsilon, clip_ratio_high -> epsilon_high, clip_ratio_c -> dual_clip, rollout.n ->
              num_generations.
    Proven    authors' code: tajwarfahim/maxrl@c0698ebb4, its advantage and policy loss by autograd in float64.
    Options
        num_generations: rollouts per problem
        epsilon: lower clip bound of the ratio, 1 - epsilon
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high; none: epsilon
        dual_clip: drop tokens of negative advantage above this ratio; none: no dual clip
    """
    high = epsilon if epsilon_high is None else epsilon_high
    clip = Clip(epsilon, high) if dual_clip is None else DoubleClip(epsilon, high, dual_clip)
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(Term(Source.ROLLOUT, RelativeToMean(), Behavior(), clip, normalizer=PerToken()),),
        run={"learning_rate": 1e-6, "max_grad_norm": 0.3},
    )
