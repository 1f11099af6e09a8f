"""A demonstration joins the group of own samples, weighted as if a mixture of policies had written it."""

from obverse.estimator import Method, Term, entropy_bonus
from obverse.estimator.parts import (
    Behavior,
    Centered,
    CenteredSurprise,
    ConstantOfAll,
    MixtureBehavior,
    Request,
)
from obverse.types import Source


def rl_plus(
    num_generations: int = 7,
    omega: float = 0.5,
    gamma: float = 0.5,
    entropy_coef: float = 0.001,
    max_completion_length: int = 8192,
) -> Method:
    """RL-PLUS: mixed-policy RL with a multiple importance ratio and a bonus for surprise on demonstration tokens.

    Paper     RL-PLUS: Countering Capability Boundary Collapse, https://arxiv.org/abs/2508.00222 [abs].
    Equation  J = (1/(L S)) [ sum_on r_t A + sum_off m_t (1 - p_t)^gamma A ], r_t = pi_theta / pi_old,
              m_t = 2 p_t / ((1 + omega) pi_old + 1 - omega), A = R - mean R over the *mixed* group; (1 - p)^gamma is
              without gradient.
    Estimator rollout: c_t = r_t A / (L S), pi_ref = pi_old, no mask; demonstration: c_t = A (1 - p)^gamma m_t / (L S),
              pi_ref = ((1 + omega) pi_old + 1 - omega) / 2; S samples, demonstrations included.
    Paper writes  The unknown author of a demonstration is replaced by a Bayesian guess [abs]; its constants were not
                  compared with the code's.
    Code does     2 p / (1.5 mu + 0.5): the author is (mu + 1) / 2, half policy, half certain, and the mixture is the
                  mean of policy and author. The advantage is R - mean over the mixed group without std, no clip
                  (loss_remove_clip), sums over the padded width without the number of sequences [code].
    We do         The code's weights; mu is the policy when the step's samples were collected. S is counted over the
                  whole update.
    Defaults  7 own samples beside 1 demonstration (n = 8), omega 0.5, gamma 0.5, entropy_coef 0.001, L = 8192,
              learning_rate 1e-6, no KL: rlplus_core_alg.py and the scripts for Qwen2.5-Math-7B [code]. In a run L is
              the run's own --max_completion_length.
    Pitfalls  A demonstration's token weighs at most 0.57 A, near p = 0.45, and hardly anything where it is unlikely
              or certain. Equal rewards of the mixed group give zero; if all own samples fail, the demonstration has
              A = 7/8 and they have -1/8 each. Only the entropy bonus acts always.
    Authors' names  entropy_coeff -> entropy_coef, rollout.n -> num_generations + 1; omega and gamma are written into
              the code.
    Proven    authors' code: YihongDong/RL-PLUS@eb4aa4d4e, rlplus_core_alg.py, in float64.
    Options
        num_generations: rollouts per problem, beside one demonstration
        omega: how much of the assumed author is the policy; 0: the author is certain, 1: the author is the policy
        gamma: exponent of 1 - p, the bonus for a demonstration's unlikely tokens
        entropy_coef: weight of the entropy bonus, a mean over all trained tokens; 0 is off
    """
    normalizer = ConstantOfAll(max_completion_length)
    return Method(
        ask=Request(rollouts=num_generations, demonstrations=1),
        terms=(
            Term(Source.ROLLOUT, Centered(), Behavior(), normalizer=normalizer),
            Term(Source.DEMONSTRATION, CenteredSurprise(gamma), MixtureBehavior(omega), normalizer=normalizer),
            *entropy_bonus(entropy_coef, Source.ROLLOUT, Source.DEMONSTRATION),
        ),
        run={"learning_rate": 1e-6},
    )
