"""Components that any method can be given: a KL to the initial model, an entropy bonus, a soft length limit, and a
correction of the difference between sampler and trainer.

A method that has a parameter of the same name keeps its own meaning of it.
"""

from __future__ import annotations

from dataclasses import replace

from obverse.errors import ConfigError
from obverse.estimator.columns import part_needs
from obverse.estimator.formula import Term, entropy_bonus
from obverse.estimator.method import Method
from obverse.estimator.parts import (
    AnchorPenalty,
    BackToAnchor,
    Corrected,
    Overlong,
    PerToken,
    TopEntropy,
    TowardsAnchor,
)
from obverse.estimator.parts.mismatch import Correction
from obverse.estimator.parts.penalties import Estimator
from obverse.types import Source

TEXTS = {
    "kl_coef": "weight of a KL to the initial model, on rollout tokens; 0 is off",
    "kl_estimator": "estimator of that KL; none: k3 in the loss, k1 in the reward",
    "kl_in_reward": "take the KL off the reward instead of adding it to the loss",
    "entropy_coef": "weight of an entropy bonus, a mean over rollout tokens; 0 is off",
    "overlong_factor": "length penalty of a rollout at the longest completion, taken off its reward; 0 is off",
    "overlong_cache_length": "tokens before that limit over which the penalty grows; none: a fifth of it",
    "max_completion_length": "that limit: in a run the run's own --max_completion_length",
    "importance_sampling": "weigh rollout tokens by the ratio of trainer to sampler, for --sampler vllm",
    "importance_sampling_cap": "cap at which that ratio is truncated or masked",
    "top_entropy_quantile": "fraction of rollout tokens, those of highest entropy, that keep their gradient; 1 is all",
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
    top_entropy_quantile: float = 1.0,
) -> Method:
    """The method with components that any method may have; all of them are off by default.

    kl_coef, kl_estimator  beta of a KL(pi_theta || pi_initial) penalty on rollout tokens, and its estimator: in the
        loss k2 (the local reverse KL) or k3 (GRPO's, the default), a mean over all rollout tokens of the update. With
        kl_in_reward it is subtracted from the reward instead, and k1 is the default: its gradient is the sequence's
        KL. A method that divides advantages by a std divides this KL too.
    entropy_coef  an entropy bonus, a mean over all rollout tokens (all trained tokens if the method has no rollouts).
    overlong_factor  adds factor min(0, (L - C - n) / C) to the reward of a rollout of n tokens: 0 up to C tokens
        before the longest completion L, then falling to -factor at it (DAPO's soft overlong punishment, 2503.14476
        eq. 13). overlong_cache_length is C; none is a fifth of L. L is the run's max_completion_length.
    importance_sampling  weighs rollout tokens by pi_trainer / pi_sampler when the sampler is another program: token_
        or sequence_, _truncate or _mask at importance_sampling_cap (TRL's names; 2.0 is verl's token cap).
    top_entropy_quantile  keeps the policy gradient of the rollout tokens of highest entropy only, this fraction of the
        update's (2506.01939 has 0.2; TRL's name). Denominators, KL terms and the entropy bonus do not change. The
        quantile is that of the whole update, over all micro batches and ranks: it costs a first forward pass.

    Raises ConfigError for k1 in the loss, for a component that has no effect, and for values out of range.
    """
    if kl_coef < 0 or importance_sampling_cap <= 0:
        raise ConfigError("kl_coef must not be negative, and importance_sampling_cap must be above 0")
    trains_rollouts = Source.ROLLOUT in method.sources and method.trains_policy
    if kl_coef and not trains_rollouts:
        raise ConfigError("kl_coef acts on rollouts, and this method trains none")
    if importance_sampling != "none" and not trains_rollouts:
        raise ConfigError("importance_sampling corrects rollouts, and this method trains none")
    if entropy_coef and not method.trains_policy:
        raise ConfigError("entropy_coef acts on a policy, and this method trains none")
    reads_reward = any("reward" in part_needs(part) for part in method.readers if part is not method.keep)
    if kl_coef and kl_in_reward and not reads_reward:
        raise ConfigError("kl_in_reward changes the reward, and this method does not read it: put the KL in the loss")
    if kl_coef and not kl_in_reward and kl_estimator == "k1":
        raise ConfigError(
            "k1 in the loss has no effect: the expectation of its gradient, E[grad log pi], is zero; "
            "use kl_estimator k2 or k3, or kl_in_reward"
        )
    if overlong_factor < 0 or (overlong_factor and not (trains_rollouts and reads_reward)):
        raise ConfigError("overlong_factor must be at least 0, of a method that trains rollouts by their reward")
    terms, shaping = method.terms, method.shaping
    estimator = kl_estimator or ("k1" if kl_in_reward else "k3")
    if importance_sampling != "none":
        terms = tuple(_corrected(term, importance_sampling, importance_sampling_cap) for term in terms)
        if terms == method.terms:
            raise ConfigError("importance_sampling corrects a policy gradient, and this method has none on rollouts")
    if not 0 < top_entropy_quantile <= 1:
        raise ConfigError(f"top_entropy_quantile must be above 0 and at most 1, not {top_entropy_quantile:g}")
    if top_entropy_quantile < 1:
        gated = tuple(_gated(term, top_entropy_quantile) for term in terms)
        if gated == terms:
            raise ConfigError("top_entropy_quantile masks a policy gradient, and this method has none on rollouts")
        terms = gated
    if overlong_factor:
        cache = max(1, max_completion_length // 5) if overlong_cache_length is None else overlong_cache_length
        shaping = (*shaping, Overlong(max_completion_length, cache, overlong_factor))
    if kl_coef and kl_in_reward:
        shaping = (*shaping, AnchorPenalty(kl_coef, estimator))
    elif kl_coef:
        advantage = BackToAnchor() if estimator == "k2" else TowardsAnchor()
        terms = (*terms, Term(Source.ROLLOUT, advantage, normalizer=PerToken(), weight=kl_coef))
    if entropy_coef:
        terms = (
            *terms,
            *entropy_bonus(entropy_coef, *([Source.ROLLOUT] if trains_rollouts else sorted(method.sources))),
        )
    return replace(method, terms=terms, shaping=shaping)


def _gated(term: Term, top: float) -> Term:
    """The term with its mask restricted to the tokens of highest entropy, if it is a policy gradient on rollouts."""
    return replace(term, mask=TopEntropy(term.mask, top)) if _is_policy_gradient(term) else term


def _is_policy_gradient(term: Term) -> bool:
    """Whether the term is on the log-probs of rollout tokens, and no KL to the initial model."""
    return term.source is Source.ROLLOUT and term.on == "logp" and "anchor" not in term.advantage.needs


def _corrected(term: Term, mode: Correction, cap: float) -> Term:
    """The term with the correction in its mask, if it is a policy gradient on rollouts."""
    return replace(term, mask=Corrected(term.mask, mode, cap)) if _is_policy_gradient(term) else term
