"""Hybrid post-training: RL where the model succeeds, SFT where it fails."""

from typing import Literal

from obverse.estimator import Term, entropy_bonus
from obverse.method import Method
from obverse.parts import (
    Always,
    Behavior,
    Centered,
    Clip,
    Constant,
    PerToken,
    Request,
    SolvedGate,
    Standardized,
)
from obverse.records import Source


def hpt(
    num_generations: int = 8,
    gate: int = 0,
    sft_coef: float = 1.0,
    rl_coef: float = 1.0,
    entropy_coef: float = 0.001,
    max_completion_length: int = 8192,
    scale_rewards: Literal["none", "group"] = "none",
    epsilon: float | None = None,
) -> Method:
    """HPT: each problem chooses between RL on its own rollouts and SFT on its demonstration by how often it was solved.

    Paper     Towards a Unified View of LLM Post-Training, https://arxiv.org/abs/2509.04419, eq. 9-12 and algorithm 1.
    Equation  L = alpha L_RL + beta L_SFT per problem, alpha = 1[P > gate], beta = 1[P <= gate], P = correct rollouts.
    Estimator rollout of a solved problem: c_t = rl_coef r_t (R - mean R) / (L B), pi_ref = pi_old, no mask;
              demonstration of a failed one: c_t = sft_coef / N, pi_ref = pi_theta, A = 1.
    Paper writes  GRPO with clip and std (eq. 11) and a per-sequence mean for SFT (eq. 12); P is a mean in [0, 1].
    Code does     No clip, no std; RL sums tokens / 8192 and never divides by the number of sequences; SFT is a token
                  mean over each micro batch, so the two parts' proportion moves with the micro batches. P is a count
                  of rewards equal to 1. The entropy bonus is a token mean over all trained tokens, demonstrations too.
    We do         No clip, no std, a count, as the code; but denominators of the whole update: RL sums / (L B), B the
                  rollouts that train, SFT a token mean over the demonstrations that train. The printed form is
                  scale_rewards="group", epsilon=0.2. Since the code never divides by B, its RL part weighs as much
                  more as there are rollouts in one of its micro batches: 32,768 tokens, about 20 rollouts. A run
                  therefore starts from rl_coef 20, which keeps the proportion that produced the paper's numbers and
                  does not move with the batch [derived]; the formula alone (weigh, explain) has rl_coef 1.
    Defaults  8 rollouts, gate 0, sft_coef 1.0 (0.3 for Qwen2.5-Math-1.5B), entropy_coef 0.001, L = 8192, learning_rate
              5e-6 constant, weight_decay 0.01, no step when the gradient norm exceeds 80: the authors' train.sh for
              Qwen2.5-Math-7B; LLaMA-3.1-8B has gate 2. In a run L is the run's own --max_completion_length.
    Pitfalls  rl_coef and sft_coef decide which half leads: with 1 and 1 a run is nearly SFT on failed problems.
              Needs a demonstration per problem: a failed problem without one teaches nothing. Equal rewards do not
              give zero: an all-wrong group trains on its demonstration. The entropy term acts on demonstrations too.
    Authors' names  switch_gate -> gate, sft_loss_coef -> sft_coef, entropy_coeff -> entropy_coef, rollout.n ->
              num_generations, grpo_use_std -> scale_rewards, loss_remove_clip -> epsilon=None.
    """
    rollout = Term(
        Source.ROLLOUT,
        Standardized() if scale_rewards == "group" else Centered(),
        Behavior(),
        Always() if epsilon is None else Clip(epsilon, epsilon),
        share=Constant(max_completion_length),
        weight=rl_coef,
    )
    demonstration = Term(Source.DEMONSTRATION, share=PerToken(), weight=sft_coef)
    return Method(
        ask=Request(rollouts=num_generations, demonstrations=1),
        keep=SolvedGate(gate),
        terms=(rollout, demonstration, *entropy_bonus(entropy_coef, Source.ROLLOUT, Source.DEMONSTRATION)),
        run={"learning_rate": 5e-6, "weight_decay": 0.01, "skip_grad_norm": 80.0, "rl_coef": 20.0},
    )
