"""GRPO, and for a problem that no sample solves, GRPO on continuations of an expert's first tokens."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import (
    Behavior,
    Clip,
    HintLadder,
    LatestHint,
    PerSequence,
    Request,
    Standardized,
    TowardsAnchor,
)
from obverse.types import Source


def bread(
    num_generations: int = 8,
    max_follow_ups: int = 3,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    beta: float = 0.0,
) -> Method:
    """BREAD: GRPO with rollouts that branch from an expert's prefix where all own samples fail.

    Paper     BREAD: Branched Rollouts from Expert Anchors, https://arxiv.org/abs/2506.17211; only its abstract was
              read, and no code is published [abs].
    Equation  J = mean_i mean_t [ min(r_t A_i, clip(r_t, 1 - epsilon, 1 + epsilon) A_i) - beta k3_t ] over the tokens
              that the policy wrote, A_i = (R_i - mean R) / std R over the samples that continue the same prefix.
    Estimator c_t = [ 1_clip r_t A_i - beta (1 - e^(-d)) ] / (n_i B): pi_ref = pi_old, PPO's clip as the mask.
    Paper writes  If all own samples fail, short prefixes of the expert's solution are inserted, so that an update has
                  at least one success [abs].
    Code does     not published.
    We do         The rule of the search is ours [derived]: round k of max_follow_ups samples num_generations
                  continuations of the fraction k / (max_follow_ups + 1) of the demonstration's tokens, and the search
                  ends with the first correct one. A problem trains on its samples without a hint if one of them is
                  correct, else on those of the longest hint, which are a group of their own. The hint is not trained.
    Defaults  num_generations 8, epsilon 0.2, learning_rate 1e-6 are those of grpo, max_follow_ups 3 and beta 0 ours
              [derived].
    Pitfalls  A problem that fails to the end costs max_follow_ups + 1 times the sampling of grpo. The policy is never
              trained to write the prefix: what follows it does not help before the policy reaches such a state. A
              group that fails behind its longest hint has equal rewards and no gradient. Equal rewards give zero only
              with beta = 0. A problem without a demonstration is plain GRPO.
    Authors' names  none published.
    Proven    derived: the search and the baseline are our reconstruction; grpo's part by its literal objective.
    Options
        num_generations: rollouts per problem, and per hint
        max_follow_ups: lengths of hint that are tried after a failure, at most
        epsilon: clip range of the importance ratio: 1 - epsilon to 1 + epsilon
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high; none: epsilon
        beta: weight of the k3 estimate of the KL to the initial model, in the loss; 0 is off
    """
    high = epsilon if epsilon_high is None else epsilon_high
    surrogate = Term(Source.ROLLOUT, Standardized(), Behavior(), Clip(epsilon, high), normalizer=PerSequence())
    kl = Term(Source.ROLLOUT, TowardsAnchor(), normalizer=PerSequence(), weight=beta)
    return Method(
        ask=Request(rollouts=num_generations),
        follow_up=HintLadder(num_generations, max_follow_ups),
        keep=LatestHint(),
        terms=(surrogate, kl) if beta else (surrogate,),
        run={"learning_rate": 1e-6},
    )
