"""Demonstrations by SFT and by RL, and own samples by their sign, in one stage and weighted by entropy."""

from typing import Literal

from obverse.estimator import Method, Term
from obverse.estimator.parts import (
    Behavior,
    Confident,
    ConstantOfAll,
    Itself,
    Part,
    PerToken,
    Request,
    Signed,
    Standardized,
    Unit,
)
from obverse.types import Source


def srft(
    num_generations: int = 8,
    sft_coef: float = 0.5,
    rl_coef: float = 0.1,
    entropy_level: Literal["sequence", "token"] = "sequence",
    loss_type: Literal["token", "constant"] = "token",
    surrogate: Literal["logp", "p", "ratio"] = "logp",
    max_completion_length: int = 8192,
) -> Method:
    """SRFT: SFT on demonstrations where the policy is sure, RL on them too, and own samples pushed up or down.

    Paper     SRFT: Supervised Reinforcement Fine-Tuning, https://arxiv.org/abs/2506.19767 (no official code found).
    Equation  L = L_SFT + L_demo-RL + L_self; L_SFT = w_SFT E_demo[-log pi], w_SFT = 0.5 sg(e^-H);
              L_demo-RL = GRPO on the group of own samples and demonstrations, mean and std, pi_beta = 1, no clip;
              L_self = w_RL E[-log pi(y+)] + E[log pi(y-)], w_RL = 0.1 sg(e^H), for rewards 1 and -1.
    Estimator demonstration: c_t = (sft_coef e^-H + A p) / N_demo: pi_ref = pi_theta, A = 0.5 e^-H, and pi_ref = 1;
              own sample: c_t = rl_coef e^H / N_own if right, -1 / N_own if not: pi_ref = pi_theta, no baseline.
    Paper writes  Expectations E[.], not over what; H is an entropy, detached.
    Code does     HPT's reimplementation: L_SFT is a token mean over demonstrations, the others are sums / 8192; H is
                  the mean over each sequence. srft_type "paper" uses log-probs, as here; its other types use p,
                  the ratio, or a difference of log-probs. Its result is far below the paper's (44.2 on 6 benchmarks).
    We do         Every expectation is a token mean over the update, demonstrations and own samples apart; the
                  reimplementation's sums are loss_type="constant", its sums divided by the update's samples; surrogate
                  is what own samples raise: logp, p (weight times p) or ratio (pi_ref = pi_old, no clip); a difference
                  of log-probs has logp's gradient. E over own samples is one mean over right and wrong ones. H is
                  detached, each sample's own mean; entropy_level="token" is each token's own. Right is what the
                  verifier calls right.
    Defaults  8 own samples, 0.5 and 0.1, learning_rate 1e-6 constant: the paper [paper]. L = 8192 as its longest answer
              [paper]; entropy_level sequence as in HPT's reimplementation [code], token means [derived]. In a run L is
              the run's own --max_completion_length.
    Pitfalls  Equal rewards do not give zero: own samples have no baseline and demonstrations have their SFT part.
              w_RL is far below 1, so the -1 on wrong samples dominates: expect drift of entropy and length where most
              are wrong, for -log of an unlikely token is unbounded. The paper's averages (59.5, 59.1) disagree with
              each other and are over 5 benchmarks: not comparable with LUFFY's and HPT's 6.
    Authors' names  w_SFT -> sft_coef, w_RL -> rl_coef (their constant factors); srft_type -> surrogate.
    Proven    peer: the reimplementation in the repository of 2509.04419, its three parts, in float64.
    Options
        num_generations: rollouts per problem
        sft_coef: weight of SFT on demonstrations, times e^-H, H the policy's entropy
        rl_coef: weight of correct rollouts, times e^H; incorrect ones count -1
        entropy_level: H as each sequence's mean, or as each token's own entropy
        loss_type: average over tokens (token), or divide sums by the longest completion (constant)
        surrogate: what rollouts raise or lower: log-probability, probability, or importance ratio
    """
    constant = ConstantOfAll(max_completion_length)
    normalizer = constant if loss_type == "constant" else PerToken()
    references: dict[str, Part] = {"logp": Itself(), "p": Unit(), "ratio": Behavior()}
    return Method(
        ask=Request(rollouts=num_generations, demonstrations=1),
        terms=(
            Term(Source.DEMONSTRATION, Confident(sft_coef, entropy_level), normalizer=PerToken()),
            Term(Source.DEMONSTRATION, Standardized(), Unit(), normalizer=normalizer),
            Term(Source.ROLLOUT, Signed(rl_coef, entropy_level), references[surrogate], normalizer=normalizer),
        ),
        run={"learning_rate": 1e-6},
    )
