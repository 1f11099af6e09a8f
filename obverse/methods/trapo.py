"""Hints for the problems that fail, chosen after the verdicts; the hints are trained within a trust region."""

from obverse.estimator import Method, Term, entropy_bonus
from obverse.estimator.parts import (
    AtLeast,
    Behavior,
    Centered,
    ConstantOfAll,
    HintAfterFailure,
    MixedGroup,
    OncePerHint,
    One,
    Request,
)
from obverse.types import Source


def trapo(trust: float = 0.1, entropy_coef: float = 0.001, max_completion_length: int = 8192) -> Method:
    """TRAPO: eight samples per problem, with longer hints the more of them fail; TrSFT on hints, RL on continuations.

    Paper     Trust-Region Adaptive Policy Optimization, https://arxiv.org/abs/2512.17636.
    Equation  J = (1/(L S)) [ sum_own r_t (R - mean R) + sum_hint f(p_t) ], f(p) = p / trust below trust,
              log(p / trust) + 1 above it; mean R over all 8 samples of the problem; S samples of the update.
    Estimator own token: c_t = r_t (R - mean R) / (L S), pi_ref = pi_old, no mask; hint and demonstration token:
              c_t = p_t / max(p_t, trust) / (L S), A = 1, pi_ref = max(p, trust).
    Paper writes  Micro groups of samples with prefixes of growing length, chosen by the returns so far [abs].
    Code does     4 samples without a hint; fewer than 2 of 4 correct: 2 behind a quarter of the demonstration, else 2
                  without a hint; fewer than 4 of 6: 1 behind a half; fewer than 7 of 7: the demonstration itself as
                  the last sample. A hint ends at the first blank line within +30 % of the length. Of the two samples
                  with one hint the second trains it. No clip, no std, no division by the number of sequences;
                  problems that are all correct or all wrong are dropped [code].
    We do         The code's rule and weights. The hint that two samples share has weight 1/2 in each, which is the
                  same gradient and needs no order; so has one that the blank line makes equal to a longer one. "+30 %"
                  is read as 30 % of the whole demonstration [derived]. The mean over the S samples of the update is
                  ours. A sample without a grade counts as incorrect for the rule, and is dropped afterwards.
    Defaults  trust 0.1, entropy_coef 0.001, learning_rate 1e-6, 8 problems per step [code]; L 8192. In a run L is the
              run's own --max_completion_length.
    Pitfalls  Four rounds of sampling one after another in every step. The demonstration, as the last sample, usually
              has reward 1 and raises the baseline of the others: where all others fail they have A = -1/8.
              Equal rewards do not give zero: hints count whatever the verdict, and so does the entropy bonus. A
              problem without a demonstration has 8 samples without a hint.
    Authors' names  off_policy_reshape clip_low -> trust, entropy_coeff -> entropy_coef, grpo_use_std False -> always.
    Proven    authors' code: Su-my/TRAPO@982cb8f7e for the weight of hints, in float64; the rest literal objective.
    Options
        trust: probability above which a token of a hint counts as in SFT
        entropy_coef: weight of the entropy bonus, a mean over all trained tokens; 0 is off
    """
    normalizer = ConstantOfAll(max_completion_length)
    sources = (Source.ROLLOUT, Source.HINT, Source.DEMONSTRATION)
    return Method(
        ask=Request(rollouts=4),
        follow_up=HintAfterFailure(),
        keep=MixedGroup(),
        terms=(
            Term(Source.ROLLOUT, Centered(), Behavior(), normalizer=normalizer),
            Term(Source.HINT, OncePerHint(), AtLeast(trust), normalizer=normalizer),
            Term(Source.DEMONSTRATION, One(), AtLeast(trust), normalizer=normalizer),
            *entropy_bonus(entropy_coef, *sources),
        ),
        run={"learning_rate": 1e-6, "prompts_per_step": 8},
    )
