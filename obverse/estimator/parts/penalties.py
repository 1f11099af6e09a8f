"""The KL to the anchor, the frozen initial model (TRL: ref_model), as an advantage (loss) or a shaping (reward).

With d = log pi_theta - log pi_anchor of the sampled token: k1 = d, k2 = d^2 / 2, k3 = e^(-d) + d - 1.
Source of the estimators: J. Schulman, "Approximating KL divergence" (2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from obverse.estimator.parts.interfaces import Part, Shaping
from obverse.estimator.tables import LOG_RATIO_LIMIT
from obverse.types import Source

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.tables import PartInputs

Estimator = Literal["k1", "k2", "k3"]


@dataclass(frozen=True)
class TowardsAnchor(Part):
    """A = pi_anchor / pi_theta - 1: minus the gradient of the k3 estimate of KL(pi_theta || pi_anchor).

    k3 = e^(-d) + d - 1 with d = log pi_theta - log pi_anchor. Source: GRPO, 2402.03300 eq. 4. In expectation over
    rollouts this gradient is that of the *forward* KL(pi_anchor || pi_theta), although k3 estimates the reverse one.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"anchor"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        return (inputs.tokens.anchor - inputs.policy.logp).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp() - 1.0


@dataclass(frozen=True)
class BackToAnchor(Part):
    """A = log pi_anchor - log pi_theta = -d: minus the gradient of k2; [T].

    On rollout tokens its expectation is the gradient of the reverse KL(pi_theta || pi_anchor) at each state. With the
    behavior policy as reference it is k3 weighted by the importance ratio, the same off policy.
    Source: 2506.09477 [mem] on gradients of KL estimators; open-instruct's and TRL's variants.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"anchor"})

    def __call__(self, inputs: PartInputs) -> Tensor:
        return (inputs.tokens.anchor - inputs.policy.logp).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


@dataclass(frozen=True)
class AnchorPenalty(Shaping):
    """-coef k on every rollout token, k the token's estimate of KL(pi_old || pi_anchor); [T].

    `coef` None reads the coefficient from the method's memory, where it adapts. k1, in the reward, has the gradient of
    the sequence's reverse KL. Source: RLHF as in 2203.02155 eq. 2.
    """

    coef: float | None
    estimator: Estimator = "k1"
    rollout_tokens_only: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"anchor", "behavior"} | ({"memory"} if self.coef is None else set()))

    def __call__(self, inputs: PartInputs) -> Tensor:
        gap = (inputs.tokens.behavior - inputs.tokens.anchor).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        divergence = {"k1": gap, "k2": gap**2 / 2, "k3": (-gap).exp() + gap - 1}[self.estimator]
        coef = inputs.spread(inputs.samples.memory) if self.coef is None else self.coef
        is_rollout = inputs.tokens.source == int(Source.ROLLOUT)
        return (-coef * divergence).where(is_rollout, gap.new_zeros(()))
