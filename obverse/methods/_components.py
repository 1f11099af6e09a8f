"""What every method can be given on top of its own: a KL to the initial model, an entropy bonus, a soft limit of the
length, a mismatch correction.

A method that has an option of the same name keeps its own meaning of it.
"""

from __future__ import annotations

from dataclasses import replace

from obverse.errors import ConfigError
from obverse.estimator.formula import Term, entropy_bonus
from obverse.estimator.method import Method
from obverse.estimator.parts import AnchorPenalty, BackToAnchor, Corrected, Overlong, PerToken, TowardsAnchor
from obverse.estimator.parts.mismatch import Correction
from obverse.estimator.parts.penalties import Estimator
from obverse.types import Source

TEXTS = {
    "kl_coef": "beta of a KL to the initial model, on own tokens; 0 is off",
    "kl_estimator": "of that KL; none: k3 in the loss, k1 in the reward",
    "kl_in_reward": "take the KL off the reward instead of adding it to the loss",
    "entropy_coef": "of an entropy bonus, a mean over own tokens; 0 is off",
    "overlong_factor": "take off the reward of own samples near the length limit, at most so much; 0 is off",
    "overlong_cache_length": "tokens before that limit over which it grows; none: a fifth of the limit",
    "max_completion_length": "that limit: in a run the run's own --max_completion_length",
    "importance_sampling": "weigh own tokens by trainer over sampler, where these are two programs",
    "importance_sampling_cap": "where that weight is truncated or masked",
}


def compose(
    method: Method,
    kl_coef: float = 0.0,
    kl_estimator: Estimator | None = None,
    kl_in_reward: bool = False,
    entropy_coef: float = 0.0,
    overlong_factor: float = 0.0,
    overlong_cache_length: int | None = None,
    max_completion_length: int = 512,
    importance_sampling: Correction = "none",
    importance_sampling_cap: float = 2.0,
) -> Method:
    """The method with components that any method may have; all of them are off by default.

    kl_coef, kl_estimator  beta of a KL(pi_theta || pi_initial) penalty on own tokens, and how a token estimates it: in
        the loss k2 (the local reverse KL) or k3 (GRPO's, the default), a mean over all own tokens of the update. With
        kl_in_reward it is taken off the reward instead, and k1 is the default: its gradient is the sequence's KL. A
        method that divides advantages by a std divides this KL too.
    entropy_coef  an entropy bonus, a mean over all own tokens (over all trained tokens without own ones).
    overlong_factor  adds factor min(0, (L - C - n) / C) to the reward of an own sample of n tokens: 0 up to C tokens
        before the longest completion L, then falling to -factor at it (DAPO's soft overlong punishment, 2503.14476
        eq. 13). overlong_cache_length is C; none is a fifth of L. L is the run's max_completion_length.
    importance_sampling  weighs own tokens by pi_trainer / pi_sampler when the two are different programs: token_ or
        sequence_, _truncate or _mask at importance_sampling_cap (TRL's names; 2.0 is verl's token cap).

    Raises ConfigError for k1 in the loss, for a component that has nothing to act on, and for values out of range.
    """
    if kl_coef < 0 or importance_sampling_cap <= 0:
        raise ConfigError("kl_coef must not be negative, and importance_sampling_cap must be above 0")
    own = Source.ROLLOUT in method.sources and method.trains_policy
    if kl_coef and not own:
        raise ConfigError("kl_coef acts on own samples, and this method trains none")
    if importance_sampling != "none" and not own:
        raise ConfigError("importance_sampling corrects own samples, and this method trains none")
    if entropy_coef and not method.trains_policy:
        raise ConfigError("entropy_coef acts on a policy, and this method trains none")
    if kl_coef and kl_in_reward and not method.needs("reward"):
        raise ConfigError("kl_in_reward changes the reward, and this method does not read it: put the KL in the loss")
    if kl_coef and not kl_in_reward and kl_estimator == "k1":
        raise ConfigError(
            "k1 in the loss pulls nowhere: the expectation of its gradient, E[grad log pi], is zero; "
            "use kl_estimator k2 or k3, or kl_in_reward"
        )
    if overlong_factor < 0 or (overlong_factor and not (own and method.needs("reward"))):
        raise ConfigError("overlong_factor lowers the reward of own samples: it must not be negative, and be read")
    terms, shaping = method.terms, method.shaping
    estimator = kl_estimator or ("k1" if kl_in_reward else "k3")
    if importance_sampling != "none":
        terms = tuple(_corrected(term, importance_sampling, importance_sampling_cap) for term in terms)
        if terms == method.terms:
            raise ConfigError("importance_sampling corrects a policy gradient, and this method has none on own samples")
    if overlong_factor:
        cache = max(1, max_completion_length // 5) if overlong_cache_length is None else overlong_cache_length
        shaping = (*shaping, Overlong(max_completion_length, cache, overlong_factor))
    if kl_coef and kl_in_reward:
        shaping = (*shaping, AnchorPenalty(kl_coef, estimator))
    elif kl_coef:
        advantage = BackToAnchor() if estimator == "k2" else TowardsAnchor()
        terms = (*terms, Term(Source.ROLLOUT, advantage, normalizer=PerToken(), weight=kl_coef))
    if entropy_coef:
        terms = (*terms, *entropy_bonus(entropy_coef, *([Source.ROLLOUT] if own else sorted(method.sources))))
    return replace(method, terms=terms, shaping=shaping)


def _corrected(term: Term, mode: Correction, cap: float) -> Term:
    """A term on own tokens' log-probs with the correction in its gate; others, a KL among them, as they are."""
    if term.source is not Source.ROLLOUT or term.on != "logp" or "anchor" in term.advantage.needs:
        return term
    return replace(term, mask=Corrected(term.mask, mode, cap))
