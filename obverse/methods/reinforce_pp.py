"""REINFORCE with PPO's clip and rewards standardized over the whole update."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import Behavior, Clip, PerToken, Request, Whitened, WhitenedCentered
from obverse.types import Source


def reinforce_pp(
    num_generations: int = 4,
    baseline: bool = False,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
) -> Method:
    """REINFORCE++: PPO's surrogate with rewards whitened over all tokens of the update, in place of a critic.

    Paper     REINFORCE++, https://arxiv.org/abs/2501.03262 [mem].
    Equation  J = (1/N) sum_i sum_t min(r_t A_i, clip(r_t, 1 - epsilon, 1 + epsilon) A_i), r_t = pi_theta / pi_old,
              A_i = (x_i - mean x) / std x over the tokens of the update; x_i = R_i, or with baseline R_i - mean R over
              the problem's group.
    Estimator c_t = 1_clip r_t A_i / N: pi_ref = pi_old, PPO's clip as the mask.
    Paper writes  A KL to the initial model in the reward, per token, whitened with it.
    Code does     verl: returns with gamma 1, the reward at every token, whitened by a masked mean and an unbiased
                  variance plus 1e-8; with baseline a group of one keeps its reward [code].
    We do         verl's, with the population's variance, at least 1e-8: a factor sqrt(N / (N - 1)). A sample counts
                  once per token. The KL is a component of any method: --kl_coef with --kl_in_reward, added to a
                  sample's whole reward.
    Defaults  epsilon 0.2 as in verl [code]; 4 samples; learning_rate 1e-6 as in TRL's RLOO [derived].
    Pitfalls  Equal rewards do not give zero within a problem without baseline: a failed problem is pushed down where
              other problems of the update were solved. Only an update of equal rewards gives zero. With few problems
              per update mean and std are noisy, and long answers weigh more in both.
    Authors' names  verl: adv_estimator=reinforce_plus_plus, reinforce_plus_plus_baseline is baseline=True;
              clip_ratio_low -> epsilon, clip_ratio_high -> epsilon_high.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        num_generations: rollouts per problem
        baseline: subtract the mean reward of the problem's rollouts before whitening
        epsilon: lower clip bound of the ratio, 1 - epsilon
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high; none: epsilon
    """
    clip = Clip(epsilon, epsilon if epsilon_high is None else epsilon_high)
    advantage = WhitenedCentered() if baseline else Whitened(scale=True)
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(Term(Source.ROLLOUT, advantage, Behavior(), clip, normalizer=PerToken()),),
        run={"learning_rate": 1e-6},
    )
