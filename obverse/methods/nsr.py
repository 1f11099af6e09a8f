"""Learn from mistakes: wrong answers are pushed down, right ones raised a little or not at all."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import Behavior, Clip, Everything, IncorrectOnly, PerToken, Request, RightOrWrong
from obverse.types import Source


def nsr(
    num_generations: int = 8,
    positive_weight: float = 0.1,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
) -> Method:
    """NSR: PPO's surrogate with advantage -1 on wrong answers and positive_weight on right ones, no baseline.

    Paper     The Surprising Effectiveness of Negative Reinforcement, https://arxiv.org/abs/2506.01347 [abs].
    Equation  J = (1/N) sum_i sum_t min(r_t A_i, clip(r_t, 1 - epsilon, 1 + epsilon) A_i), r_t = pi_theta / pi_old,
              A_i = positive_weight for a right answer, -1 for a wrong one.
    Estimator c_t = 1_clip r_t A_i / N: pi_ref = pi_old, PPO's clip as the mask.
    Paper writes  Positive (PSR) and negative (NSR) sample reinforcement, and weighted REINFORCE between them.
    Code does     The equation in a fork of verl, which asserts rewards of exactly 0 or 1. For NSR the batch is cut to
                  the wrong answers before the loss, so that N counts only theirs; weighted REINFORCE keeps all [code].
    We do         The code's, N counted over the whole update. positive_weight 0 is NSR and keeps wrong answers only;
                  above 0 it is weighted REINFORCE; 1 is REINFORCE with rewards +1 and -1. PSR, right answers only, is
                  `raft` with a clip.
    Defaults  positive_weight 0.1, the paper's weighted REINFORCE; 8 samples of 1024 problems in 4 mini batches,
              epsilon 0.2, learning_rate 1e-6, no KL: the authors' script for MATH [code]. Mini batches are the run's:
              --num_mini_batches 4.
    Pitfalls  Equal rewards do not give zero: a failed problem is pushed down, a solved one raised by positive_weight.
              Nothing bounds the fall of wrong tokens but the clip at 1 - epsilon, which needs several updates per
              collection. The grade is read, right or wrong, and not the reward: --format_reward and penalties in the
              reward change nothing, and of a reward model a score above 0 is right.
    Authors' names  positive_advantage_weight (lambda) -> positive_weight, clip_ratio -> epsilon, rollout.n ->
              num_generations.
    Proven    authors' code: TianHongZXY/RLVR-Decomposed@a5d4e7c1d, its advantage and policy loss by autograd in
              float64.
    Options
        num_generations: rollouts per problem
        positive_weight: advantage of right answers; 0 trains on wrong answers only
        epsilon: lower clip bound of the ratio, 1 - epsilon
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high; none: epsilon
    """
    clip = Clip(epsilon, epsilon if epsilon_high is None else epsilon_high)
    return Method(
        ask=Request(rollouts=num_generations),
        keep=Everything() if positive_weight else IncorrectOnly(),
        terms=(Term(Source.ROLLOUT, RightOrWrong(positive_weight), Behavior(), clip, normalizer=PerToken()),),
        run={"learning_rate": 1e-6},
    )
