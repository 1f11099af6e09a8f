"""A problem's rollouts as a classification: right ones should become likelier than when they were sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from obverse.estimator.parts.interfaces import Part
from obverse.estimator.tables import LOG_RATIO_LIMIT, group_mean, group_sum
from obverse.types import Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs


@dataclass(frozen=True)
class Classified(Part):
    """Minus the slope of log(1 + sum_wrong e^(s_j / tau)) + log(1 + sum_right e^(-s_i / tau)) by s; [T].

    s is a sample's mean log-ratio to the policy that sampled it; right is a reward above the group's mean. A =
    e^(-s_i / tau) / (tau (1 + sum_right e^(-s / tau))) for right samples, -e^(s_j / tau) / (tau (1 + sum_wrong
    e^(s / tau))) for wrong ones: at most 1 / tau. Groups with one side only give 0. s / tau is clamped to +-80.
    Source: 2602.05630 [abs], as in ms-swift's loss_type `real`.
    """

    tau: float = 0.5
    needs: ClassVar[frozenset[str]] = frozenset({"behavior", "reward", "group"})
    needs_whole_groups: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.tau <= 0:
            raise ValueError(f"tau must be above 0, not {self.tau:g}")

    def __call__(self, inputs: PartInputs) -> Tensor:
        samples, zero = inputs.samples, inputs.policy.logp.new_zeros(())
        is_right = samples.reward > group_mean(samples, samples.reward)
        score = inputs.sample_mean(inputs.policy.logp - inputs.tokens.behavior, Source.ROLLOUT) / self.tau
        score = score.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        exponentials = (-score).where(is_right, score).exp()
        raised, lowered = (group_sum(samples, exponentials.where(side, zero)) for side in (is_right, ~is_right))
        has_both = (raised > 0) & (lowered > 0)
        advantage = (exponentials / (1 + raised)).where(is_right, -exponentials / (1 + lowered)) / self.tau
        return inputs.spread(advantage.where(has_both, zero))
