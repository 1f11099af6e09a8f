"""RL on single steps of a demonstration, with their similarity to the expert's as reward."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import Behavior, Clip, NextStep, PerToken, Request, RewardSpread, Standardized
from obverse.types import Source


def srl(
    num_generations: int = 8, epsilon: float = 0.2, epsilon_high: float | None = None, min_reward_std: float = 0.01
) -> Method:
    """SRL: GRPO on the next step of a demonstration, rewarded by its similarity to the expert's step.

    Paper     Supervised Reinforcement Learning: From Expert Trajectories to Step-wise Reasoning,
              https://arxiv.org/abs/2510.25992 [abs]; no code was found.
    Equation  J = (1/N) sum_t min(r_t A_i, clip(r_t, 1 - epsilon, 1 + epsilon) A_i), A_i = (R_i - mean R) / std R over
              the group, R = 2M / T: T characters of the response and the expert's step, M of them in matching blocks.
    Estimator c_t = 1_clip r_t A_i / N: pi_ref = pi_old, PPO's clip as the mask; N counts the update's tokens.
    Paper writes  A demonstration of S steps becomes S - 1 problems: the question with the first k - 1 steps, and step
                  k as the target. The model thinks, then writes the step, and only the step is compared; a wrong
                  format has a negative reward; groups of too little spread of rewards are left out [abs], the values
                  [mem].
    Code does     Not read: none was found.
    We do         The rows of the data set are replaced by their steps, k = 1 to S - 1, when a run loads them; a
                  demonstration of one text has its paragraphs as steps. A plain prompt is continued by the earlier
                  steps, a conversation has them in its last message. The reward is the verifier `similarity`: of the
                  text behind the reasoning, -1 if there is none. The wording, the place of the steps and k are ours
                  [derived].
    Defaults  epsilon 0.2, num_generations 8, min_reward_std 0.01, learning_rate 1e-6: ours, those of grpo [derived].
    Pitfalls  Needs demonstrations of at least two steps. The reward is the likeness of a text: another right step has a
              low one. The last step, mostly the answer, is no target. Evaluations have the problems as they are:
              --eval_dataset. Equal rewards of a group give zero, and nearly equal ones are left out.
    Authors' names  none read.
    Proven    derived: from the abstract; the objective is tested as it is written here.
    Options
        num_generations: rollouts per step
        epsilon: clip range of the importance ratio: 1 - epsilon to 1 + epsilon
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high; none: epsilon
        min_reward_std: standard deviation of a group's rewards above which it trains
    """
    if min_reward_std < 0:
        raise ValueError(f"min_reward_std must be at least 0, not {min_reward_std:g}")
    high = epsilon if epsilon_high is None else epsilon_high
    return Method(
        ask=Request(rollouts=num_generations),
        keep=RewardSpread(min_reward_std),
        terms=(Term(Source.ROLLOUT, Standardized(), Behavior(), Clip(epsilon, high), normalizer=PerToken()),),
        problems=NextStep(),
        run={"learning_rate": 1e-6},
    )
