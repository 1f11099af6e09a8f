"""GRPO for several reward functions: each is standardized by itself before they are added up."""

from typing import Literal

from obverse.estimator import Method, Term
from obverse.estimator.parts import Behavior, Clip, Decoupled, PerToken, Request
from obverse.types import Source


def gdpo(
    num_generations: int = 4,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    whitening: Literal["tokens", "samples"] = "tokens",
    eps: float = 1e-6,
    whitening_eps: float = 1e-8,
) -> Method:
    """GDPO: every reward function is standardized within the group, then the weighted sum is whitened over the update.

    Paper     GDPO: Group reward-Decoupled Normalization Policy Optimization for Multi-reward RL Optimization,
              https://arxiv.org/abs/2601.05242 [abs].
    Equation  J = (1/N) sum_i sum_t min(r_t A_i, clip(r_t, 1 - epsilon, 1 + epsilon) A_i), A = (x - mean x) / std x over
              the update, x_i = sum_k w_k (R_ik - mean R_k) / (std R_k + eps) over the problem's group, w_k the weight
              of reward function k.
    Estimator c_t = 1_clip r_t A_i / N: pi_ref = pi_old, PPO's clip as the mask.
    Paper writes  The sum of standardized rewards in place of the standardized sum, which gives different combinations
                  of rewards the same advantage [abs].
    Code does     The authors' verl fork whitens over tokens: (x - mean) / sqrt(variance + 1e-8), mean and unbiased
                  variance over all tokens of the batch; eps 1e-6, clip 0.2, token mean. Their TRL fork whitens over
                  samples, with 1e-4 added to either std, and counts a reward function that does not apply as reward 0
                  [code].
    We do         verl's by default, whitening="samples" for the other one. Whitening is over an update; verl whitens a
                  batch before it splits it into mini batches. A reward function that does not apply to a sample is left
                  out of the group's mean and std, and adds 0. A group of one has x = 0, where verl keeps its reward.
    Defaults  4 samples, epsilon 0.2, learning_rate 1e-6, 4 mini batches per step, no KL: train_gdpo.sh for
              Qwen2.5-1.5B-Instruct [code]. eps 1e-6 and whitening_eps 1e-8: verl [code]; the TRL fork: 1e-4 for both.
    Pitfalls  The rewards are those of --verifier math,my.py:style, the weights --verifier_weights. With one reward
              function it is grpo with whitened advantages. Equal rewards of a group have x = 0 and, since the update's
              mean is taken off, a small advantage; they give zero if no group has a difference. A reward that hardly
              differs is scaled up like any other: the weight is what makes it small. --format_reward and additions to
              the reward (overlong_factor, kl_in_reward) belong to the sum and are refused: give a verifier instead.
    Authors' names  reward_weights -> verifier_weights, rollout.n -> num_generations, clip_ratio -> epsilon.
    Proven    literal objective: tests/literal/gdpo.py, with the advantages as NVlabs/GDPO@2652ab498 computes them.
    Options
        num_generations: rollouts per problem
        epsilon: clip range of the importance ratio: 1 - epsilon to 1 + epsilon
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high; none: epsilon
        whitening: what the sum of standardized rewards is whitened over: tokens (verl) or samples (TRL fork)
        eps: added to the std of each reward in a group
        whitening_eps: added to the variance over tokens, or to the std over samples
    """
    high = epsilon if epsilon_high is None else epsilon_high
    advantage = Decoupled(whitening, eps, whitening_eps)
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(Term(Source.ROLLOUT, advantage, Behavior(), Clip(epsilon, high), normalizer=PerToken()),),
        run={"learning_rate": 1e-6, "num_mini_batches": 4},
    )
