"""Advantages from a teacher's log-prob of the sampled token, log pi_T; each part maps inputs to [T].

With pi_ref = the behavior policy, A = log pi_T - log pi is on-policy distillation: minus the gradient of the reverse KL
from the policy to the teacher, estimated on the sampled token with a discount of 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from obverse.estimator.parts.advantages import Standardized
from obverse.estimator.parts.interfaces import Part, Weight
from obverse.estimator.tables import LOG_RATIO_LIMIT

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs

# behavior: the policy that sampled the token; policy: the current one, without a gradient
Baseline = Literal["behavior", "policy"]


def teacher_gap(inputs: PartInputs, baseline: Baseline) -> Tensor:
    """log pi_T - log pi of each token, clamped to be finite; pi is the behavior or the current policy; [T]."""
    logp = inputs.tokens.behavior if baseline == "behavior" else inputs.policy.logp
    return (inputs.tokens.teacher - logp).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def baseline_needs(baseline: Baseline) -> frozenset[str]:
    """The columns that `teacher_gap` reads."""
    return frozenset({"teacher", "behavior"} if baseline == "behavior" else {"teacher"})


@dataclass(frozen=True)
class TowardsTeacher(Part):
    """A = kl_coef (log pi_T - log pi) + reward_coef (R - mean) / (std + 1e-6), the group's standardized reward.

    `baseline` selects pi: the behavior policy (the Thinking Machines blog's, 2025) or the current one, detached
    (sampled-token form of SDPO). The first term's expectation is minus the gradient of KL(pi || pi_T) at each state.
    Source: 2601.20802, authors' code.
    """

    kl_coef: float = 1.0
    reward_coef: float = 0.0
    baseline: Baseline = "behavior"

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return baseline_needs(self.baseline) | (Standardized.needs if self.reward_coef else frozenset())

    def __call__(self, inputs: PartInputs) -> Tensor:
        advantage = self.kl_coef * teacher_gap(inputs, self.baseline)
        return advantage + self.reward_coef * Standardized()(inputs) if self.reward_coef else advantage


@dataclass(frozen=True)
class PrefixWeighted(Part):
    """A = (1 + gamma (1 - sum_{k<t} |a_k| / max(sum_k |a_k|, eps))) a_t, a = log pi_T - log pi_old over the sample.

    Tokens after a prefix on which policy and teacher disagree weigh less: the weight is 1 + gamma at a sample's first
    token and falls towards 1. Source: 2606.22600, as in TRL 1.16's IW-OPD trainer.
    """

    gamma: float = 0.5
    eps: float = 1e-8
    needs: ClassVar[frozenset[str]] = frozenset({"teacher", "behavior"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        gaps, indices = inputs.in_rows(teacher_gap(inputs, "behavior"))
        sizes = gaps.abs()
        before, total = sizes.cumsum(1) - sizes, sizes.sum(1, keepdim=True).clamp(min=self.eps)
        return ((1 + self.gamma * (1 - before / total)) * gaps)[indices]


@dataclass(frozen=True)
class Redistributed(Part):
    """A = A_i (1 - l + l clip(exp(sgn(A_i) (log pi_T - log pi_old)), 1 - clip, 1 + clip)), A_i the standardized reward.

    The teacher moves weight inside a response and never changes the sign: with l = 0.5 and clip = 0.2 the factor is
    between 0.9 and 1.1. `share` is l, a number or a schedule; with `negative_only` samples with A_i > 0 keep A_i.
    Source: RLSD, 2604.03128, as in ms-swift's rl_core/advantage.py.
    """

    share: Weight = 0.5
    clip: float = 0.2
    negative_only: bool = False
    needs: ClassVar[frozenset[str]] = Standardized.needs | {"teacher", "behavior"}

    def __call__(self, inputs: PartInputs) -> Tensor:
        share = self.share if isinstance(self.share, int | float) else self.share(inputs.progress)
        advantage = Standardized()(inputs)
        evidence = (advantage.sign() * teacher_gap(inputs, "behavior")).exp().clamp(1 - self.clip, 1 + self.clip)
        factor = 1 - share + share * evidence
        return advantage * (factor.where(advantage < 0, factor.new_ones(())) if self.negative_only else factor)


@dataclass(frozen=True)
class TeacherGate(Part):
    """A = sigmoid(sharpness (log pi_T - log pi)): imitate own tokens as far as the teacher finds them likelier.

    Always positive: a gated SFT on the policy's samples, not the gradient of a KL. Source: SDAR, 2605.15155 [mem], as
    in ms-swift's rl_core/advantage.py.
    """

    sharpness: float = 5.0
    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        return (self.sharpness * teacher_gap(inputs, "policy")).sigmoid()


@dataclass(frozen=True)
class BackToBehavior(Part):
    """A = log pi_old - log pi: minus the gradient of (log pi - log pi_old)^2 / 2; [T].

    Source: the squared log-ratio in prime-rl's losses; as an estimate of a KL 2506.09477 [mem].
    """

    needs: ClassVar[frozenset[str]] = frozenset({"behavior"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        return (inputs.tokens.behavior - inputs.policy.logp).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
