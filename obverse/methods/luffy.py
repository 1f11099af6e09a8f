"""A demonstration joins the group of own samples, and its unlikely tokens count more than their probability."""

from typing import Literal

from obverse.estimator import Method, Term, entropy_bonus
from obverse.estimator.parts import (
    Accepted,
    Always,
    Behavior,
    Centered,
    Clip,
    ConstantOfAll,
    Itself,
    Logarithm,
    LogarithmToo,
    Part,
    Power,
    Request,
    Saturating,
    Standardized,
    Unit,
)
from obverse.types import Source

Shaping = Literal["none", "p_div_p", "square_root", "pow", "logp", "p_logp", "classic_reject_token"]


def luffy(
    num_generations: int = 7,
    shaping: Shaping = "p_div_p",
    gamma: float = 0.1,
    exponent: float = 0.5,
    shaping_scale: float = 1.0,
    scale_rewards: Literal["none", "group"] = "none",
    epsilon: float | None = None,
    entropy_coef: float = 0.001,
    max_completion_length: int = 8192,
) -> Method:
    """LUFFY: mixed-policy GRPO on groups of own samples and a demonstration, with policy shaping of its probability.

    Paper     Learning to Reason under Off-Policy Guidance, https://arxiv.org/abs/2504.14945.
    Equation  J = (1/Z) [ sum_off f(p_t) A + sum_on CLIP(r_t, A) ], f(x) = x / (x + gamma), r_t = pi_theta / pi_old,
              A = (R - mean R) / std R over the *mixed* group: the demonstration's reward counts in mean and std.
    Estimator rollout: c_t = r_t A / (L S), pi_ref = pi_old, no mask; demonstration: c_t = f'(p) p A / (L S)
              = A gamma p / (p + gamma)^2 / (L S), pi_ref = 1 / f'(p), no mask; S samples, demonstrations included.
    Paper writes  A clip on own samples, the std, and a behavior probability of the demonstration set to 1.
    Code does     train.sh: no clip, no std (grpo_use_std False); one sum over own and demonstration tokens of the micro
                  batch / 8192, never divided by the number of sequences; the entropy bonus is a token mean over all
                  response tokens, demonstrations too. The demonstration is graded like a rollout. A group of one has
                  A = R there, and 0 here. With target_probs the demonstration's weight is A p / (pi_author + 1e-6).
    We do         The code's, with S counted over the whole update, so that the two kinds keep their proportion; the
                  printed form is scale_rewards="group", epsilon=0.2. `shaping` is f: none is p, p_div_p is
                  p / (p + gamma) (the code has gamma .1, .3 and .5), square_root is p^(1/2) with weight A p^(1/2) / 2,
                  pow is p^exponent, logp is shaping_scale log p with weight A shaping_scale, p_logp is both p and that,
                  classic_reject_token keeps a token with probability p and gives it the weight A. The code rolls a die
                  for that; here the number to beat follows from problem, token and progress, so that a run can be
                  repeated. target_probs is left out: no data column has the author's probabilities.
    Defaults  7 own samples beside 1 demonstration (n = 8, n_prefix = 1), gamma 0.1, entropy_coef 0.001, L = 8192,
              learning_rate 1e-6 constant, no KL: the authors' train.sh for Qwen2.5-Math-7B [code]; shaping_scale 1 and
              exponent 1/2 [derived]. In a run L is the run's own --max_completion_length.
    Pitfalls  A demonstration's token weighs at most A / 4, and most at p = gamma. Equal rewards of the own
              samples alone do not give zero: if all seven fail, the demonstration has A = 7/8 and they have -1/8 each;
              if all are right, all have A = 0. Where the demonstration is graded wrong as well, a failed group teaches
              nothing. Only the entropy bonus acts always.
    Authors' names  off_policy_reshape -> shaping (p_div_p_0.1 -> p_div_p with gamma), off_policy_reshape_weight ->
              shaping_scale, entropy_coeff -> entropy_coef, grpo_use_std -> scale_rewards, loss_remove_clip ->
              epsilon=None, rollout.n -> num_generations + 1.
    Proven    authors' code: ElliottYan/LUFFY, its mixed policy loss with every shaping, in float64.
    Options
        num_generations: rollouts per problem, beside one demonstration
        shaping: function f of a demonstration token's probability in the objective
        gamma: constant of p / (p + gamma), shaping p_div_p
        exponent: exponent of p^exponent, shaping pow
        shaping_scale: factor of log p, shapings logp and p_logp
        scale_rewards: divide advantages by the standard deviation of the group's rewards (group), or not (none)
        epsilon: clip range of the importance ratio on rollouts; none: no clip
        entropy_coef: weight of the entropy bonus, a mean over all trained tokens; 0 is off
    """
    if min(gamma, exponent, shaping_scale) <= 0:
        raise ValueError("gamma, exponent and shaping_scale must be above 0")
    shapings: dict[str, Part] = {
        "none": Unit(),
        "p_div_p": Saturating(gamma),
        "square_root": Power(0.5),
        "pow": Power(exponent),
        "logp": Logarithm(shaping_scale),
        "p_logp": LogarithmToo(shaping_scale),
        "classic_reject_token": Itself(),
    }
    chance = Accepted() if shaping == "classic_reject_token" else Always()
    advantage = Standardized() if scale_rewards == "group" else Centered()
    mask = Always() if epsilon is None else Clip(epsilon, epsilon)
    normalizer = ConstantOfAll(max_completion_length)
    return Method(
        ask=Request(rollouts=num_generations, demonstrations=1),
        terms=(
            Term(Source.ROLLOUT, advantage, Behavior(), mask, normalizer=normalizer),
            Term(Source.DEMONSTRATION, advantage, shapings[shaping], chance, normalizer=normalizer),
            *entropy_bonus(entropy_coef, Source.ROLLOUT, Source.DEMONSTRATION),
        ),
        run={"learning_rate": 1e-6},
    )
