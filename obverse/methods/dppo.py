"""A trust region in probabilities in place of a clip of the ratio."""

from typing import Literal

from obverse.errors import ConfigError
from obverse.estimator import Method, Term
from obverse.estimator.parts import BinaryKL, CappedBehavior, Centered, Constant, ProbabilityChange, Request
from obverse.types import Source


def dppo(
    num_generations: int = 8,
    form: Literal["tv", "kl"] = "tv",
    epsilon: float | None = None,
    epsilon_high: float | None = None,
    ratio_cap: float = 20.0,
    sampled_by: Literal["behavior", "sampler"] = "behavior",
    max_completion_length: int = 3000,
) -> Method:
    """DPPO: PPO that stops tokens by the distance between policy and sampling policy, not by their ratio.

    Paper     DPPO, https://arxiv.org/abs/2602.04879 [abs].
    Equation  c_t = min(r_t, C) A_i 1_t, r_t = p / mu, A_i = R_i - mean R over the problem's group. form tv: 1_t is
              p - mu <= epsilon_high where A_i > 0, p - mu >= -epsilon where A_i < 0. form kl:
              KL((mu, 1 - mu) || (p, 1 - p)) <= the same bounds, or p has moved back towards mu.
    Estimator c_t = 1_t min(r_t, C) A_i / (L B): pi_ref = max(mu, p / C), the divergence on the sampled token against
              all others as the mask. Bounds are inclusive.
    Paper writes  A bound of the total variation or of the KL between the two distributions, of which the binary form
              is a lower bound; also over the top k tokens.
    Code does     verl: the equation, with the trainer's log-probs before the update as mu, and the sum over tokens
              divided by a constant. The authors' repository masks against the sampler's log-probs; its _recompute
              forms use the trainer's [code].
    We do         The binary forms. sampled_by="sampler" masks against the sampling program's log-probs, as the authors'
              repository does; the ratio is to the trainer's in both. L is constant, B is counted over the update.
    Defaults  epsilon 0.15 on both sides for tv, 0.05 for kl: verl's examples [code]. ratio_cap C 20 is the fallback of
              verl's function; its configuration passes clip_ratio_c, 3 by default and 10000 in the example, which is no
              cap [code]. learning_rate 1e-6 [code]; 8 samples as in TRL's GRPO. In a run L is the run's own
              --max_completion_length.
    Pitfalls  A ratio clip hardly limits a change from 0.5 to 0.6 and stops one from 0.001 to 0.002; here it is the
              reverse, so rare tokens move freely and C is their only bound. With one update per collection p = mu and
              nothing is masked. The forms over the top k tokens are not here. A problem never solved has no gradient.
    Authors' names  clip_ratio_low or clip_divergence_low -> epsilon, clip_ratio_high -> epsilon_high, clip_ratio_c ->
              ratio_cap; loss_mode dppo_tv, dppo_kl -> form.
    Proven    authors' code: sail-sg/Stable-RL@c6af1d11, its policy loss by autograd in float64, up to one factor.
    Options
        num_generations: rollouts per problem
        form: bound the change of the token's probability (tv), or the KL of the token against all others (kl)
        epsilon: bound of falls, where the advantage is negative; none: 0.15 (tv), 0.05 (kl)
        epsilon_high: bound of rises, where the advantage is positive; none: epsilon
        ratio_cap: the importance weight is capped at this ratio
        sampled_by: bound the distance to the trainer's log-probs (behavior), or to the sampling program's (sampler)
    """
    if ratio_cap < 1:
        raise ConfigError(f"ratio_cap must be at least 1, not {ratio_cap:g}: below 1 it would scale every token")
    low = {"tv": 0.15, "kl": 0.05}[form] if epsilon is None else epsilon
    high = low if epsilon_high is None else epsilon_high
    mask = (ProbabilityChange if form == "tv" else BinaryKL)(low, high, sampled_by)
    surrogate = Term(
        Source.ROLLOUT, Centered(), CappedBehavior(ratio_cap), mask, normalizer=Constant(max_completion_length)
    )
    return Method(ask=Request(rollouts=num_generations), terms=(surrogate,), run={"learning_rate": 1e-6})
