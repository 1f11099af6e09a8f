"""Decoupled clip and dynamic sampling."""

from obverse.estimator import Term
from obverse.method import Method
from obverse.parts import Behavior, Clip, MixedOutcomes, PerToken, Request, Standardized
from obverse.records import Source


def dapo(num_generations: int = 16, epsilon: float = 0.2, epsilon_high: float = 0.28) -> Method:
    """DAPO: GRPO with a higher upper clip, a mean over tokens, no KL, and only problems with mixed outcomes.

    Paper     DAPO: An Open-Source LLM Reinforcement Learning System at Scale, https://arxiv.org/abs/2503.14476, sec. 3.
    Equation  J = (1/sum n_i) sum_i sum_t min(r_t A_i, clip(r_t, 1 - epsilon, 1 + epsilon_high) A_i) over problems with
              0 < number of right answers < G; A_i = (R_i - mean R) / std R.
    Estimator c_t = 1_clip r_t A_i / N: pi_ref = pi_old, PPO's clip with two bounds as the mask.
    Paper writes  No dual clip. Keep sampling until the batch is full of mixed groups.
    Code does     verl's recipe: token mean over a mini batch, unbiased std, eps 1e-6; clip_ratio_c = 10, which also
                  masks r > 10 where A < 0. It filters by the standard deviation of the *accuracy*, not of the shaped
                  reward, and keeps groups of one.
    We do         The printed formula with N counted over the whole update, unbiased std, eps 1e-6, no dual clip; groups
                  filtered by accuracy. A group of one is dropped: its advantage is zero.
    Defaults  epsilon 0.2 and 0.28, 16 samples, learning_rate 1e-6, 10 warm-up steps, weight_decay 0.1, gradient norm
              clipped at 1: the authors' script for Qwen2.5-32B.
    Pitfalls  Two of the paper's pieces are left to a later step: overlong shaping (a penalty in the reward for the last
              part of the length limit) and sampling other problems in place of dropped groups. Without the second an
              update is smaller by the dropped groups, or empty. A problem never solved teaches nothing.
    Authors' names  clip_ratio_low -> epsilon, clip_ratio_high -> epsilon_high, rollout.n -> num_generations.
    """
    return Method(
        ask=Request(rollouts=num_generations),
        keep=MixedOutcomes(),
        terms=(Term(Source.ROLLOUT, Standardized(), Behavior(), Clip(epsilon, epsilon_high), share=PerToken()),),
        run={"learning_rate": 1e-6, "warmup_steps": 10, "weight_decay": 0.1, "max_grad_norm": 1.0},
    )
