"""Proximal policy optimization with a critic."""

from obverse.errors import ConfigError
from obverse.estimator import Method, Term
from obverse.estimator.parts import (
    GAE,
    AdaptiveKL,
    AnchorPenalty,
    Behavior,
    Clip,
    DoubleClip,
    PerToken,
    Request,
    Surprise,
    Written,
)
from obverse.estimator.parts.penalties import Estimator
from obverse.methods._components import compose
from obverse.types import Source


def ppo(
    num_generations: int = 1,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    dual_clip: float | None = 3.0,
    value_clip: float | None = 0.5,
    value_coef: float = 1.0,
    gamma: float = 1.0,
    lam: float = 1.0,
    critic_learning_rate: float = 1e-5,
    kl_coef: float = 0.0,
    kl_estimator: Estimator | None = None,
    kl_in_reward: bool = True,
    kl_target: float | None = None,
    kl_horizon: int = 10_000,
) -> Method:
    """PPO: a critic predicts the return, and tokens with a higher return are raised, within a clip.

    Paper     Proximal Policy Optimization, https://arxiv.org/abs/1707.06347, eq. 7; advantages:
              https://arxiv.org/abs/1506.02438, eq. 16; for language models with the KL in the reward:
              https://arxiv.org/abs/2203.02155 and, with an adaptive coefficient, https://arxiv.org/abs/1909.08593.
    Equation  J = mean_t min(r_t A_t, clip(r_t, 1 - epsilon, 1 + epsilon_high) A_t), for A_t < 0 at least dual_clip A_t;
              A_t = sum_k (gamma lam)^k delta_(t+k), delta_t = R_t + gamma V_(t+1) - V_t, R_t the reward at the last
              token and -kl_coef (log pi_old - log pi_anchor) at every token. The critic minimizes
              value_coef mean_t max((V - G_t)^2, (clip(V, V_old +- value_clip) - G_t)^2) / 2, G_t = A_t + V_t.
    Estimator c_t = 1_clip r_t A_t / N: pi_ref = pi_old, the dual clip as the mask, A whitened over the collection's
              tokens. A second stream multiplies V_t: value_coef 1_value_clip (G_t - V_t) / N, G from A before it was
              whitened.
    Paper writes  An expectation over time steps, one clip, a critic that shares the policy's trunk; no value clip.
    Code does     verl: a critic of its own with its own optimizer, dual clip 3, value clip 0.5, token means, advantages
                  whitened over the batch, KL in the reward off by default (coefficient 0.001 when on). OpenRLHF: the
                  same with KL 0.01. TRL's last PPO: lam 0.95, value coefficient 0.1, value clip 0.2.
    We do         As verl, with denominators of the whole update. A response that was cut at the length limit ends with
                  the reward it got: nothing is expected behind its end. kl_target lets kl_coef adapt: after a
                  collection of n samples it is multiplied by 1 + clip(KL / kl_target - 1, -0.2, 0.2) n / kl_horizon.
    Defaults  verl's [code]: 0.2 / 0.2, dual_clip 3, value_clip 0.5, gamma 1, lam 1, learning_rate 1e-6, critic 1e-5,
              one sample per problem, kl_coef 0 (when above: k1, in the reward), kl_horizon 10000 (its kl_target is
              0.1). value_coef 1: with an optimizer of its own the critic needs no weight [derived].
    Pitfalls  Equal rewards do not give zero: what counts is the distance to what the critic expected, and before it has
              learned anything that is noise. With lam 1 a token's advantage is the whole rest of the response.
              Whitening takes the mean off: a collection in which everything is right still lowers some tokens.
    Authors' names  verl: clip_ratio_low, clip_ratio_high, clip_ratio_c -> dual_clip, cliprange_value -> value_clip,
              kl_ctrl.kl_coef, kl_ctrl.target_kl -> kl_target, kl_ctrl.horizon; TRL: cliprange, vf_coef -> value_coef.
    Proven    peer: verl's clipped policy loss with dual clip, in float64; the critic by its literal objective.
    Options
        num_generations: rollouts per problem
        epsilon: clip range of the importance ratio: 1 - epsilon to 1 + epsilon
        epsilon_high: upper clip bound of the ratio, 1 + epsilon_high; none: epsilon
        dual_clip: drop tokens of negative advantage above this ratio; none: no dual clip
        value_clip: clip range of the critic's value around that before the update; none: no clip
        value_coef: weight of the critic's loss
        gamma: discount of later rewards, 0 to 1
        lam: decay of GAE; 1 is the whole return, 0 the next step only
        kl_in_reward: take the KL off the reward (true), or add it to the loss
        kl_target: KL per token that an adaptive kl_coef aims at; none: kl_coef is constant
        kl_horizon: samples over which the adaptive kl_coef changes
    """
    if kl_target is not None and not (kl_coef > 0 and kl_in_reward):
        raise ConfigError("kl_target adapts a KL in the reward: it needs a kl_coef above 0 to begin with")
    high = epsilon if epsilon_high is None else epsilon_high
    clip = Clip(epsilon, high) if dual_clip is None else DoubleClip(epsilon, high, dual_clip)
    method = Method(
        ask=Request(rollouts=num_generations),
        terms=(
            Term(Source.ROLLOUT, Written(), Behavior(), clip, normalizer=PerToken()),
            Term(Source.ROLLOUT, Surprise(value_clip), normalizer=PerToken(), weight=value_coef, on="value"),
        ),
        critic=GAE(gamma, lam, learning_rate=critic_learning_rate),
        shaping=() if kl_target is None else (AnchorPenalty(None, kl_estimator or "k1"),),
        memory=None if kl_target is None else AdaptiveKL(kl_coef, kl_target, kl_horizon),
        run={"learning_rate": 1e-6},
    )
    return method if kl_target is not None else compose(method, kl_coef, kl_estimator, kl_in_reward)
