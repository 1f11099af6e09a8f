"""Group policy gradient: the policy gradient itself, with the group's mean reward as its baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from obverse.estimator import Method, Term
from obverse.estimator.parts import Centered, Part, PerToken, Request
from obverse.estimator.tables import group_mean
from obverse.types import Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs

Valid = Literal["rewards", "groups"]
SPREAD = 1e-6  # of a group's rewards, above which they are unequal


@dataclass(frozen=True)
class RescaledCentered(Part):
    """A = alpha (R - mean(R)), alpha = rollouts of the update / valid ones among them (at least 1); [T].

    `valid`: the samples whose reward is not 0 (`rewards`), or those of groups with unequal rewards (`groups`).
    Source: GPG, 2504.02546.
    """

    valid: Valid = "rewards"
    needs: ClassVar[frozenset[str]] = frozenset({"reward", "group"})
    is_policy_independent: ClassVar[bool] = True

    def __call__(self, inputs: PartInputs) -> Tensor:
        samples, reward = inputs.samples, inputs.samples.reward
        is_rollout = samples.counts[:, int(Source.ROLLOUT)] > 0
        deviation = (reward - group_mean(samples, reward)).abs()
        is_valid = reward != 0 if self.valid == "rewards" else group_mean(samples, deviation) > SPREAD
        alpha = is_rollout.sum().to(reward.dtype) / (is_rollout & is_valid).sum().clamp(min=1)
        return alpha * Centered()(inputs)


def gpg(num_generations: int = 8, valid: Valid = "rewards") -> Method:
    """GPG: the plain policy gradient with the group's mean as baseline, scaled up for samples without a signal.

    Paper     GPG: A Simple and Strong Reinforcement Learning Baseline for Model Reasoning,
              https://arxiv.org/abs/2504.02546 [mem].
    Equation  J = (1/N) sum_i sum_t A_i log pi_theta(y_it), A_i = alpha (R_i - mean R) over the problem's group,
              alpha = samples / valid samples of the update.
    Estimator c_t = A_i / N: pi_ref = pi_theta, no mask; N counts the update's tokens.
    Paper writes  No surrogate, no ratio, no clip, no KL, no division by the std (its f_norm is 1). Groups with equal
                  rewards have no signal, and alpha makes up for their part of the mean [mem].
    Code does     verl counts the samples whose reward is not 0 as valid, so that -1 counts and a group of zeros does
                  not, but a group of ones does [code].
    We do         verl's count; valid="groups" is the paper's, samples of groups with unequal rewards [mem]. The mean
                  over tokens is that of the whole update. Without a valid sample alpha's denominator is 1, and all
                  advantages are 0.
    Defaults  num_generations 8, learning_rate 1e-6 are ours, those of grpo [derived].
    Pitfalls  alpha depends on how many problems of the update are solved: with a rare success the step is as large as
              with many. Without a ratio it is exact for one update per batch only: later ones are off-policy.
    Authors' names  verl: adv_estimator gpg; f_norm is 1.
    Proven    authors' code: verl@1dda039b9, compute_gpg_outcome_advantage and compute_policy_loss_gpg, in float64.
    Options
        num_generations: rollouts per problem
        valid: what alpha counts: samples with a reward other than 0 (rewards), or of groups with unequal ones (groups)
    """
    return Method(
        ask=Request(rollouts=num_generations),
        terms=(Term(Source.ROLLOUT, RescaledCentered(valid), normalizer=PerToken()),),
        run={"learning_rate": 1e-6},
    )
