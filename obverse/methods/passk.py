"""pass@k in place of the mean reward."""

from typing import Literal

from obverse.errors import ConfigError
from obverse.estimator import Method, Term
from obverse.estimator.parts import Behavior, BestMargin, Clip, PassAtK, PerToken, Request
from obverse.types import Source


def passk(
    num_generations: int = 8,
    k: int | None = None,
    form: Literal["analytic", "best"] = "analytic",
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
) -> Method:
    """Pass@k training: the reward is that one of k samples is right, averaged over all subsets of a group.

    Paper     Pass@k Training, https://arxiv.org/abs/2508.10751 [abs]; the form best is that of
              https://arxiv.org/abs/2503.19595 [abs].
    Equation  J = (1/N) sum_i sum_t min(r_t A_i, clip(r_t, 1 - epsilon, 1 + epsilon) A_i), r_t = pi_theta / pi_old.
              analytic: with n samples, w of them wrong, m = 1 - C(w, k) / C(n, k) and s = sqrt(m (1 - m)) + 1e-6,
              A = (1 - m) / s for right samples, (1 - m - C(w - 1, k - 1) / C(n - 1, k - 1)) / s for wrong ones.
              best: A = (R_best - R_second) / (std R + 1e-6) for the best sample, 0 for all others.
    Estimator c_t = 1_clip r_t A_i / N: pi_ref = pi_old, PPO's clip as the mask.
    Paper writes  The analytic form is the expectation over subsets of k samples, each with the best reward in it.
    Code does     The authors' repository has the advantage only, neither clip nor averaging [code]. verl's grpo_passk
                  is the form best, with an unbiased std; it raises an error for a group of one [code].
    We do         Both advantages in PPO's loss with GRPO's clip and a mean over the update's tokens [derived]. A group
                  of fewer than k samples has no estimate and zero advantage; for best a group of one is refused.
    Defaults  8 samples, k a quarter of them, epsilon 0.2, learning_rate 1e-6 [derived].
    Pitfalls  A problem with fewer than k wrong answers has no gradient: pass@k is certain there, and solved problems
              stop training; k near num_generations leaves little else. k 1 is GRPO with a population std. Form best
              trains a problem of rewards 0 and 1 only if exactly one sample is right. The analytic form reads the
              grade, right or wrong: --format_reward changes nothing, and of a reward model a score above 0 is right;
              best reads rewards. A problem that is never solved has no gradient.
    Authors' names  k -> k, n_samples_per_prompt -> num_generations; verl: adv_estimator=grpo_passk is form="best".
    Proven    authors' code: RUCAIBox/Passk_Training@c3ba575ec, its advantage, in float64; clip and averaging are
              derived.
    Options
        num_generations: rollouts per problem
        k: samples of which one has to be right; none: a quarter of num_generations; form best does not read it
        form: all subsets of k samples (analytic), or the margin of the best sample over the second (best)
        epsilon: lower clip bound of the ratio, 1 - epsilon
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high; none: epsilon
    """
    if k is not None and k > num_generations:
        raise ConfigError(f"k {k} is more than the {num_generations} rollouts of a problem: raise num_generations")
    advantage = BestMargin() if form == "best" else PassAtK(max(1, num_generations // 4) if k is None else k)
    clip = Clip(epsilon, epsilon if epsilon_high is None else epsilon_high)
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(Term(Source.ROLLOUT, advantage, Behavior(), clip, normalizer=PerToken()),),
        run={"learning_rate": 1e-6},
    )
