"""A warm-up on demonstrations, then PPO on the same questions."""

from dataclasses import replace

from obverse.estimator import InOrder, Stage, TrainingSchedule
from obverse.estimator.parts import PerSequence
from obverse.estimator.parts.penalties import Estimator
from obverse.methods.ppo import ppo
from obverse.methods.sft import sft


def reft(
    sft_share: float = 0.1,
    imitation_learning_rate: float | None = 1e-5,
    num_generations: int = 1,
    epsilon: float = 0.2,
    value_clip: float | None = 0.2,
    value_coef: float = 1.0,
    gamma: float = 1.0,
    lam: float = 0.95,
    critic_learning_rate: float = 1e-5,
    kl_coef: float = 0.05,
    kl_estimator: Estimator = "k1",
    kl_in_reward: bool = True,
) -> TrainingSchedule:
    """ReFT: SFT until the model answers at all, then PPO with a partial reward and the KL in the reward.

    Paper     ReFT: Reasoning with Reinforced Fine-Tuning, https://arxiv.org/abs/2401.08967.
    Equation  Stage 1: L = -(1/N) sum_t log p_t. Stage 2: PPO on R = 1 for a right answer, 0.1 for a wrong one that can
              be read, 0 otherwise, minus kl_coef (log pi_old - log pi_anchor) at every token; A by GAE, whitened.
    Estimator stage 1: c_t = 1/N, pi_ref = pi_theta, A = 1. Stage 2: c_t = 1_clip r_t A_t / (n_i B), pi_ref = pi_old;
              value stream: value_coef 1_value_clip (G_t - V_t) / (n_i B).
    Paper writes  The initial model of the KL is the one that the warm-up ended with.
    Code does     Means over a sequence's tokens, then over sequences, for policy and critic; whitening takes the mean
                  off (TRL's does not by default). The critic is a head on the policy's own trunk, its loss weighs 5 and
                  moves the policy. The ratio is computed without dropout. Batches of 48 (SFT) and 32 (PPO), 2 passes
                  over each collection, 2 epochs of SFT and 300 of PPO.
    We do         The same on a critic of its own, with its own optimizer, so that it moves no policy and needs no
                  weight. Stage 2 has fresh moments, a schedule of its own, and the policy it finds as initial model;
                  its critic begins with that policy's weights too.
                  The partial reward is the run's option format_reward. Ours samples one answer per question and has no
                  dropout.
    Defaults  imitation_learning_rate 1e-5, learning_rate 3e-7 constant, epsilon 0.2, value_clip 0.2, gamma 1, lam 0.95,
              kl_coef 0.05 (natural-language reasoning; 0.01 for programs), format_reward 0.1 (numeric answers only),
              num_iterations 2: the authors' code [code]. critic_learning_rate 1e-5 as verl's and value_coef 1
              [derived]; sft_share 0.1 too [derived]: 2 of 302 epochs would be under 0.01 of a run.
    Pitfalls  Equal rewards do not give zero: stage 1 does not read them, and stage 2 compares with a critic and a KL.
              Choices (A, B, C, D) get no partial reward in the paper: --format_reward 0. The paper's 300 epochs at 3e-7
              are far more than a usual run: with fewer steps raise --learning_rate.
    Authors' names  vf_coef -> value_coef, kl_coef -> kl_coef, ppo_epochs -> --num_iterations, clip_range -> epsilon
              [mem].
    Proven    literal objective: the code's formula, differentiated by autograd.
    Options
        sft_share: share of the run that is SFT; PPO follows
        num_generations: rollouts per problem in the PPO stage
        epsilon: clip range of the importance ratio: 1 - epsilon to 1 + epsilon
        value_clip: clip range of the critic's value around that before the update; none: no clip
        value_coef: weight of the critic's loss
        gamma: discount of later rewards, 0 to 1
        lam: decay of GAE; 1 is the whole return, 0 the next step only
        kl_coef: weight of the KL to the policy that the SFT stage ended with; 0 is off
        kl_estimator: estimator of that KL: k1, k2 or k3
        kl_in_reward: take the KL off the reward (true), or add it to the loss
    """
    reinforce = ppo(
        num_generations=num_generations,
        epsilon=epsilon,
        dual_clip=None,
        value_clip=value_clip,
        value_coef=value_coef,
        gamma=gamma,
        lam=lam,
        critic_learning_rate=critic_learning_rate,
        kl_coef=kl_coef,
        kl_estimator=kl_estimator,
        kl_in_reward=kl_in_reward,
    )
    # the terms of policy and critic are means over sequences; a KL in the loss stays a mean over tokens
    terms = tuple(
        term if "anchor" in term.needs else replace(term, normalizer=PerSequence()) for term in reinforce.terms
    )
    return TrainingSchedule(
        (Stage(sft(), imitation_learning_rate), Stage(replace(reinforce, terms=terms))),
        InOrder(first=sft_share),
        run={"learning_rate": 3e-7, "imitation_learning_rate": 1e-5, "format_reward": 0.1, "num_iterations": 2},
    )
