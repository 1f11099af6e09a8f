"""The divergence of the policy's distribution from a target's, over the vocabulary: a stream like the entropy.

A coefficient on the log-prob weighs the observed token only; entropy, a KL over the vocabulary and distillation of
whole distributions weigh every token. Minus the gradient by the logits is what pulls: a loss with gradient g teaches
the distribution Q = p - g (Target-SFT, 2606.11189). No torch import.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from obverse.estimator.parts.interfaces import Named


@dataclass(frozen=True)
class Divergence(Named):
    """D(target q, policy p) at each trained token; its negative is the stream `on="divergence"`.

    Generalised Jensen-Shannon divergence (GKD, 2306.13649 eq. 1), with m = beta q + (1 - beta) p:
    D = beta KL(q || m) + (1 - beta) KL(p || m); beta 0 is the forward KL(q || p) and beta 1 the reverse KL(p || q).
    These are special cases: both limits of the formula are 0.

    Args:
        target: The distribution q, without a gradient: of the frozen initial model (`anchor`) or of the teacher.
        beta: The interpolation, 0 to 1.
        top_k: Compare this many tokens only; None: the whole vocabulary.
        top_k_of: Whose most probable tokens these are, the policy's or the target's.
        tail: Add a category with the probability of all other tokens, which makes D a lower bound of the full one;
            False: both distributions are renormalised over the k tokens.
        tilt: Added to the target's logit of the observed token, in nats: q_v proportional to q_v exp(tilt 1[v = y])
            (GIFT's inverse temperature).
        smooth: Share of the uniform distribution in the target, mixed in before `tilt`.

    Raises ValueError for values out of range.
    """

    target: Literal["anchor", "teacher"] = "teacher"
    beta: float = 1.0
    top_k: int | None = None
    top_k_of: Literal["policy", "target"] = "policy"
    tail: bool = True
    tilt: float = 0.0
    smooth: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta of a divergence must be between 0 and 1, not {self.beta:g}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k of a divergence must be at least 1, not {self.top_k}")
        if self.top_k == 1 and not self.tail:
            raise ValueError("one token without a tail has the probability 1 in both distributions: raise top_k")
        if not 0 <= self.smooth < 1:
            raise ValueError(f"smooth must be at least 0 and below 1, not {self.smooth:g}")
        if self.top_k is not None and (self.tilt or self.smooth):
            raise ValueError("tilt and smooth change the whole target distribution: leave top_k out")

    def __str__(self) -> str:
        names = {0.0: "forward_kl", 1.0: "reverse_kl"}
        name = names.get(self.beta, f"jensen_shannon(beta={self.beta:g})")
        options = [f"target={self.target}"]
        if self.top_k is not None:
            options += [f"top_k={self.top_k} of {self.top_k_of}", "tail" if self.tail else "no tail"]
        options += [f"{option}={getattr(self, option):g}" for option in ("tilt", "smooth") if getattr(self, option)]
        return f"{name}[{', '.join(options)}]"
