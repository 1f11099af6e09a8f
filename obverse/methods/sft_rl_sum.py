"""RL plus SFT, the plain sum: the baseline of hybrids."""

from typing import Literal

from obverse.estimator import Method, Term, entropy_bonus
from obverse.estimator.parts import Always, Behavior, Clip, Constant, OwnCentered, OwnStandardized, PerToken, Request
from obverse.types import Source


def sft_rl_sum(
    num_generations: int = 8,
    sft_coef: float = 1.0,
    rl_coef: float = 1.0,
    entropy_coef: float = 0.001,
    max_completion_length: int = 8192,
    scale_rewards: Literal["none", "group"] = "none",
    epsilon: float | None = None,
) -> Method:
    """Fixed sum of RL on a problem's own samples and SFT on its demonstration, at every step ("RL w/ SFT loss").

    Paper     LUFFY, Learning to Reason under Off-Policy Guidance, https://arxiv.org/abs/2504.14945: an ablation.
    Equation  L = rl_coef L_RL + sft_coef L_SFT; L_RL = -sum_t r_t (R - mean R), L_SFT = -(1/N) sum_t log p_t.
    Estimator rollout: c_t = rl_coef r_t (R - mean R) / (L B), pi_ref = pi_old, no mask; demonstration:
              c_t = sft_coef / N, pi_ref = pi_theta, A = 1.
    Paper writes  GRPO plus the SFT loss; the advantage with a std and the ratio with a clip.
    Code does     The advantage is that of the own samples alone (`grpo_split`), not of the mixed group. As in all of
                  the authors' script: no clip, no std, RL sums tokens / 8192 and never divides by the number of
                  sequences; SFT is a token mean; the entropy bonus is one over all trained tokens.
    We do         The code's, with denominators of the whole update: RL sums / (L B), B the rollouts, SFT a token mean.
                  The printed form is scale_rewards="group", epsilon=0.2.
    Defaults  sft_coef 1.0, 8 samples, L = 8192, entropy_coef 0.001, learning_rate 1e-6 constant: LUFFY's train.sh
              [code] and ablation [paper]; that the ablation keeps train.sh's entropy bonus and takes 8 own samples
              rather than 7 is assumed [derived]. In a run L is the run's own --max_completion_length.
    Pitfalls  rl_coef and sft_coef decide which half leads. The code's RL part is larger by the number of rollouts in
              one of its micro batches, since it never divides by it: with 1 and 1 a run here is nearly SFT; raise
              rl_coef to get the code's proportion (hpt starts at 20). Equal rewards do not give zero: demonstrations
              train at any reward. Published average 40.1, below SFT's 44.1 and far below LUFFY's 50.1.
    Authors' names  rollout.n -> num_generations, sft_loss_coef -> sft_coef, entropy_coeff -> entropy_coef,
              grpo_use_std -> scale_rewards, loss_remove_clip -> epsilon=None.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        num_generations: rollouts per problem
        sft_coef: weight of the SFT loss on demonstrations
        rl_coef: weight of the RL loss on rollouts
        entropy_coef: weight of the entropy bonus, a mean over all trained tokens; 0 is off
        scale_rewards: divide advantages by the standard deviation of the group's rewards (group), or not (none)
        epsilon: clip range of the importance ratio; none: no clip
    """
    rollout = Term(
        Source.ROLLOUT,
        OwnStandardized() if scale_rewards == "group" else OwnCentered(),
        Behavior(),
        Always() if epsilon is None else Clip(epsilon, epsilon),
        normalizer=Constant(max_completion_length),
        weight=rl_coef,
    )
    demonstration = Term(Source.DEMONSTRATION, normalizer=PerToken(), weight=sft_coef)
    return Method(
        ask=Request(rollouts=num_generations, demonstrations=1),
        terms=(rollout, demonstration, *entropy_bonus(entropy_coef, Source.ROLLOUT, Source.DEMONSTRATION)),
        run={"learning_rate": 1e-6},
    )
