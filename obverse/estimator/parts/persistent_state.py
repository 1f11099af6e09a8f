"""Persistent numbers of methods (`Memory`), and the parts that read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from obverse.estimator.parts.interfaces import Memory, Part
from obverse.estimator.tables import LOG_RATIO_LIMIT, group_sum
from obverse.types import Group, Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs

MAX_ERROR = 0.2  # clip of the relative error of the divergence


@dataclass(frozen=True)
class AdaptiveKL(Memory):
    """The coefficient of a KL penalty; it grows while the KL of rollouts to the initial model is above `target`.

    A sample's observation is the mean over its rollout tokens of log pi_old - log pi_anchor; an update of n samples
    multiplies the coefficient by 1 + clip(mean / target - 1, -0.2, 0.2) n / horizon. Source: Ziegler et al., 1909.08593
    sec. 2.2.
    """

    start: float = field()  # no default, though a memory has one
    target: float
    horizon: int = 10_000
    needs: ClassVar[frozenset[str]] = frozenset({"anchor", "behavior"})
    rollout_tokens_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.start < 0 or self.target <= 0 or self.horizon <= 0:
            raise ValueError("an adaptive KL starts at 0 or above, and its target and its horizon are above 0")

    def observe(self, inputs: PartInputs) -> Tensor:
        gap = (inputs.tokens.behavior - inputs.tokens.anchor).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        return inputs.sample_mean(gap, Source.ROLLOUT)

    def updated_value(self, stored: float, observed: Sequence[float]) -> float:
        if not observed:
            return stored
        error = sum(observed) / len(observed) / self.target - 1
        return stored * (1 + min(max(error, -MAX_ERROR), MAX_ERROR) * len(observed) / self.horizon)


@dataclass(frozen=True)
class RunningMean(Memory):
    """The mean reward of the run so far: m + (1 - momentum) (the update's mean - m). Source: Williams 1992.

    It starts at 0. Samples read the value before their update, so the baseline does not depend on them. It is the
    reinforcement comparison of 2402.14740 sec. 2 [mem].
    """

    momentum: float = 0.95
    needs: ClassVar[frozenset[str]] = frozenset({"reward"})

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"the momentum of a running mean is at least 0 and below 1, not {self.momentum:g}")

    def observe(self, inputs: PartInputs) -> Tensor:
        return inputs.samples.reward

    def updated_value(self, stored: float, observed: Sequence[float]) -> float:
        if not observed:
            return stored
        return stored + (1 - self.momentum) * (sum(observed) / len(observed) - stored)


@dataclass(frozen=True)
class GreedyReward(Memory):
    """The reward of the problem's greedy answer in the same step; nothing is stored. Source: ReMax, 2310.10505."""

    needs: ClassVar[frozenset[str]] = frozenset({"reward"})

    def value_for(self, group: Group, stored: float) -> float:
        return group.greedy_reward


@dataclass(frozen=True)
class AboveMemory(Part):
    """A = R - the memory: a running mean, or a greedy answer's reward; [T]. Source: ReMax, 2310.10505.

    Equal rewards give 0 only where the memory is equal to them.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reward", "memory"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        return inputs.spread(inputs.samples.reward - inputs.samples.memory)


@dataclass(frozen=True)
class LogPartition(Memory):
    """u: a problem's moving average of log mean_j e^(d_j) over its rollouts. Source: 2502.18679, authors' code.

    u becomes log((1 - gamma) e^u + gamma mean_j e^(d_j)) with d_j = log pi_theta(y_j) / tau - log pi_anchor(y_j); with
    `length_averaged` d_j = log pi_theta(y_j) / (tau n_j). It starts at 0. A problem without rollouts keeps its u.
    """

    gamma: float = 0.85
    tau: float = 1.0
    length_averaged: bool = False
    per_problem: ClassVar[bool] = True
    needs_whole_groups: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1 or self.tau <= 0:
            raise ValueError("gamma must be above 0 and at most 1, tau above 0")

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"memory"} if self.length_averaged else {"memory", "anchor"})

    def observe(self, inputs: PartInputs) -> Tensor:
        return self.updated_partition(inputs)[0]

    def updated_value(self, stored: float, observed: Sequence[float]) -> float:
        return observed[0] if observed else stored

    def updated_partition(self, inputs: PartInputs) -> tuple[Tensor, Tensor, Tensor]:
        """The new u, the scores d (-inf for samples that are no rollouts) and the number m of the problem's; [S] each.

        Valid for the problems of this micro batch only.
        """
        logp = inputs.policy.logp.clamp(min=-LOG_RATIO_LIMIT)
        if self.length_averaged:
            score = inputs.sample_mean(logp, Source.ROLLOUT) / self.tau
        else:
            score = inputs.sample_sum(
                logp / self.tau - inputs.tokens.anchor.clamp(min=-LOG_RATIO_LIMIT), Source.ROLLOUT
            )
        samples = inputs.samples
        is_rollout = samples.counts[:, int(Source.ROLLOUT)] > 0
        score = score.where(is_rollout, score.new_tensor(-math.inf))
        num = group_sum(samples, is_rollout.to(score.dtype))
        lowest = score.new_full((int(samples.group.max()) + 1,), -math.inf)
        highest = lowest.scatter_reduce(0, samples.group, score, "amax")[samples.group]
        log_mean = highest + (group_sum(samples, (score - highest).exp()) / num.clamp(min=1)).log()
        decayed = samples.memory + (math.log(1 - self.gamma) if self.gamma < 1 else -math.inf)
        return decayed.logaddexp(log_mean + math.log(self.gamma)).where(num > 0, samples.memory), score, num


@dataclass(frozen=True)
class Contrast(Part):
    """A = -(1/m) e^(d_j - u) for the m rollouts of a problem, u already updated; [T].

    With gamma = tau = 1 it is minus the softmax of d, and always within [-1 / gamma, 0]. d and u as in `partition`.
    Source: discriminative fine-tuning, 2502.18679, authors' code.
    """

    partition: LogPartition
    needs_whole_groups: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return self.partition.needs

    def __call__(self, inputs: PartInputs) -> Tensor:
        log_partition, score, num = self.partition.updated_partition(inputs)
        return inputs.spread(-(score - log_partition).exp() / num.clamp(min=1))
