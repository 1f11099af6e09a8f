"""Decoupled clip, dynamic sampling, a soft limit of the length."""

from obverse.estimator import Method, Term
from obverse.estimator.parts import Behavior, Clip, DoubleClip, MixedOutcomes, Overlong, PerToken, Request, Standardized
from obverse.types import Source


def dapo(
    num_generations: int = 16,
    epsilon: float = 0.2,
    epsilon_high: float = 0.28,
    dual_clip: float | None = 10.0,
    max_completion_length: int = 20480,
    overlong_cache_length: int | None = None,
    overlong_factor: float = 1.0,
    max_num_gen_batches: int = 10,
) -> Method:
    """DAPO: GRPO with a higher upper clip, a mean over tokens, no KL, problems of mixed outcomes, a soft length limit.

    Paper     DAPO: An Open-Source LLM Reinforcement Learning System at Scale, https://arxiv.org/abs/2503.14476, sec. 3.
    Equation  J = (1/sum n_i) sum_i sum_t min(r_t A_i, clip(r_t, 1 - epsilon, 1 + epsilon_high) A_i) over problems with
              0 < number of right answers < G; A_i = (R_i - mean R) / std R; R_i = the verifier's reward +
              overlong_factor min(0, (L - C - n_i) / C), L the longest completion and C the cache before it.
    Estimator c_t = 1_clip r_t A_i / N: pi_ref = pi_old, PPO's clip with two bounds as the mask.
    Paper writes  No dual clip. Keep sampling until the batch is full of mixed groups.
    Code does     verl's recipe: token mean over a mini batch, unbiased std, eps 1e-6; clip_ratio_c = 10, which also
                  masks r > 10 where A < 0. It filters by the standard deviation of the *accuracy*, not of the shaped
                  reward, keeps groups of one, and gives up with an error after max_num_gen_batches collections. A
                  collection has three times the problems of an update; what is left over is thrown away.
    We do         The code's loss, dual clip included (dual_clip None is the printed formula), with N counted over the
                  whole update; groups filtered by accuracy, before the penalty can make them differ. A group of one
                  is dropped: its advantage is zero. A step samples further problems until it has its number of mixed
                  groups, at most max_num_gen_batches times, and then trains on those it has.
    Defaults  epsilon 0.2 and 0.28, dual clip 10, 16 samples, L = 20480, C = 4096, factor 1, 10 collections,
              learning_rate 1e-6, 10 warm-up steps, weight_decay 0.1, gradient norm clipped at 1: the authors' script
              for Qwen2.5-32B [code]. In a run L is the run's own --max_completion_length; overlong_cache_length None
              is a fifth of L, as 4096 is of 20480 [derived].
    Pitfalls  Rewards of 0 and 1 halve the script's scale, which is 1 and -1: a penalty of 1 then weighs twice as
              much. overlong_factor 0 is no penalty. A problem never solved has no gradient, and while most are, a step
              costs up to ten collections.
    Authors' names  clip_ratio_low -> epsilon, clip_ratio_high -> epsilon_high, clip_ratio_c -> dual_clip, rollout.n ->
              num_generations, overlong_buffer.len -> overlong_cache_length, overlong_buffer.penalty_factor ->
              overlong_factor.
    Proven    peer: TRL 1.16, GRPOTrainer with loss_type dapo (make test-parity)
    Options
        num_generations: rollouts per problem
        epsilon: lower clip bound of the ratio, 1 - epsilon
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high
        dual_clip: drop tokens of negative advantage above this ratio; none: no dual clip
        overlong_cache_length: tokens before the longest completion over which the length penalty grows; none: a fifth
            of it
        overlong_factor: length penalty of a completion at the limit, taken off its reward; 0 is off
        max_num_gen_batches: rounds of sampling per step to fill the batch with groups of mixed outcomes, at most
    """
    clip = Clip(epsilon, epsilon_high) if dual_clip is None else DoubleClip(epsilon, epsilon_high, dual_clip)
    cache = max(1, max_completion_length // 5) if overlong_cache_length is None else overlong_cache_length
    return Method(
        ask=Request(rollouts=num_generations),
        keep=MixedOutcomes(),
        terms=(Term(Source.ROLLOUT, Standardized(), Behavior(), clip, normalizer=PerToken()),),
        shaping=(Overlong(max_completion_length, cache, overlong_factor),) if overlong_factor else (),
        max_rounds=max_num_gen_batches,
        run={"learning_rate": 1e-6, "warmup_steps": 10, "weight_decay": 0.1, "max_grad_norm": 1.0},
    )
