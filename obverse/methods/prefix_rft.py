"""One sample of the group continues a demonstration's prefix, and high-entropy tokens of the prefix are reinforced."""

from typing import Literal

from obverse.estimator import Method, Term, entropy_bonus
from obverse.estimator.parts import AgainstUnhinted, Behavior, ConstantOfAll, DoubleClip, OneHinted, TornHint
from obverse.types import Source


def prefix_rft(
    num_generations: int = 8,
    epsilon: float = 0.2,
    dual_clip: float = 3.0,
    top_entropy: float = 0.2,
    hint_advantage: Literal["paper", "v1"] = "paper",
    entropy_coef: float = 0.001,
    hint_high: float = 0.95,
    hint_low: float = 0.05,
    max_completion_length: int = 8192,
    seed: int = 42,
) -> Method:
    """Prefix-RFT: one RL objective for own samples and for one that continues a piece of the demonstration.

    Paper     Blending Supervised and Reinforcement Fine-Tuning with Prefix Sampling, https://arxiv.org/abs/2507.01679.
    Equation  J = (1/L) sum over all tokens of 1_clip r_t A; N - 1 own samples and 1 of prefix + continuation; prefix of
              a share l ~ U(low_t, 0.95), low_t = 0.05 + (0.95 - 0.05) (1 + cos(pi t / 500)) / 2.
    Estimator c_t = 1_clip 1_top r_t A / (L S), pi_ref = pi_old; 1_top only on prefix tokens: entropy in the top 20 %;
              A = R - mean of the rewards of the N - 1 samples without a prefix, for prefix and continuation alike.
    Paper writes  One advantage for the whole hybrid sample; Dr. GRPO's normalization (no std, constant length).
    Code does     Dual clip 3, sums / max tokens without division by the number of sequences; the entropy quantile is
                  taken over the prefix tokens of the micro batch. v1 (dr_grpo_prefix): a continuation is a group of one
                  and has A = R, its prefix (R - mean) / 1. v2 subtracts the singleton's own mean, which leaves A = 0
                  for the continuation and a prefix that never gains: not offered. Run configurations are unreleased.
    We do         The paper's advantage; hint_advantage="v1" is the code's first. The quantile is taken over each
                  sample's own prefix, so that micro batches change nothing, and S samples are counted over the update.
                  pi_old of prefix tokens is the policy itself when it sampled, not their author. A prefix has
                  floor(l n) of the demonstration's n tokens, at most n - 1; l depends on seed, problem and progress.
    Defaults  epsilon 0.2, dual clip 3, entropy_coef 0.001 (token mean over all trained tokens), learning_rate 1e-6: the
              yaml [code]; top 20 % and 0.95 to 0.05: [paper]; 8 samples and L = 8192 as in LUFFY's setting, which the
              paper follows [paper]. In a run L is its --max_completion_length and the seed its --seed.
    Pitfalls  Equal rewards give zero only if the hybrid has them too: beside own samples that all fail, a hybrid that
              succeeds has A = 1 on prefix and continuation. The first prefixes are nearly whole demonstrations. Without
              a demonstration a group has N samples and no prefix. All prefix tokens instead of 20 % gave 45.7 where the
              paper has 51.8; frozen ones 45.4, plain RL 45.5.
    Authors' names  clip_ratio_c -> dual_clip, entropy_coeff -> entropy_coef, rollout.n -> num_generations; the ratio of
              masked prefix tokens (.8) -> top_entropy = 1 - it.
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        num_generations: rollouts per problem, one of which continues a prefix of the demonstration
        epsilon: clip range of the importance ratio: 1 - epsilon to 1 + epsilon
        dual_clip: drop tokens of negative advantage above this ratio
        top_entropy: share of a prefix's tokens that train, those of highest entropy
        hint_advantage: one advantage for prefix and continuation (paper), or the code's two (v1)
        entropy_coef: weight of the entropy bonus, a mean over all trained tokens; 0 is off
        hint_high: longest prefix, as a share of the demonstration
        hint_low: shortest prefix at the end of the run, as a share of the demonstration
    """
    advantage, normalizer = AgainstUnhinted(alone=hint_advantage == "v1"), ConstantOfAll(max_completion_length)
    torn = TornHint(top_entropy, epsilon, epsilon, dual_clip)
    return Method(
        ask=OneHinted(num_generations, hint_high, hint_low, seed),
        terms=(
            Term(Source.ROLLOUT, advantage, Behavior(), DoubleClip(epsilon, epsilon, dual_clip), normalizer=normalizer),
            Term(Source.HINT, advantage, Behavior(), torn, normalizer=normalizer),
            *entropy_bonus(entropy_coef, Source.ROLLOUT, Source.HINT),
        ),
        run={"learning_rate": 1e-6},
    )
