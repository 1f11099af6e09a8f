"""The forms of a distillation on rollouts: the sampled token, or a divergence over the vocabulary or its top k."""

from __future__ import annotations

from typing import Literal, NamedTuple

from obverse.estimator.divergence import Divergence
from obverse.estimator.formula import Term
from obverse.estimator.parts import CappedBehavior, Itself, PerToken, TowardsTeacher
from obverse.types import Source

Mode = Literal["sampled_token", "full_logits", "topk_logits"]
WhichTeacher = Literal["initial", "policy", "average"]


class LogitForm(NamedTuple):
    """What a method's authors compare in `full_logits` and `topk_logits`; the options of these names override it."""

    alpha: float = 0.5
    top_k: int = 100
    add_tail: bool = False
    top_k_of: Literal["policy", "target"] = "policy"


class Distillation(NamedTuple):
    """The term on rollout tokens, and its divergence; None for the sampled token."""

    term: Term
    divergence: Divergence | None


def distillation(
    mode: Mode,
    alpha: float | None,
    top_k: int | None,
    add_tail: bool | None,
    is_clip: float | None,
    default: LogitForm,
) -> Distillation:
    """A distillation of the teacher on rollout tokens, a mean over all of them.

    sampled_token has the coefficient min(rho, is_clip) (log pi_T - log pi) / N, log pi of the current policy; the logit
    forms have min(rho, is_clip) / N times minus the divergence. rho is the detached importance ratio; is_clip None
    leaves it out. `alpha`, `top_k` and `add_tail` None are those of `default`.

    Raises ValueError for options that the mode does not have, and for a top-k divergence as an advantage.
    """
    reference = Itself() if is_clip is None else CappedBehavior(is_clip)
    if mode == "sampled_token":
        if alpha not in (None, 1.0):
            raise ValueError(
                "sampled_token estimates the reverse KL, distillation_alpha 1: another alpha needs "
                "distillation_mode full_logits or topk_logits"
            )
        if top_k is not None or add_tail is not None:
            raise ValueError(
                "distillation_topk and distillation_add_tail need distillation_mode topk_logits: a top-k divergence "
                "does not depend on the sampled token, so that as its advantage it has zero expected gradient"
            )
        advantage = TowardsTeacher(baseline="policy")
        return Distillation(Term(Source.ROLLOUT, advantage, reference, normalizer=PerToken()), None)
    if mode == "full_logits" and (top_k is not None or add_tail is not None):
        raise ValueError("full_logits compares the whole vocabulary: give distillation_mode topk_logits for a top k")
    divergence = Divergence(
        target="teacher",
        beta=default.alpha if alpha is None else alpha,
        top_k=None if mode == "full_logits" else default.top_k if top_k is None else top_k,
        top_k_of=default.top_k_of,
        tail=default.add_tail if add_tail is None else add_tail,
    )
    term = Term(Source.ROLLOUT, reference=reference, normalizer=PerToken(), on="divergence")
    return Distillation(term, divergence)
