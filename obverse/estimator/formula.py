"""The formula: every method is one coefficient per trained token, and there is one loss line for all of them.

Unified policy gradient estimator (arXiv 2509.04419, eq. 8): grad J = 1_stable * 1/pi_ref * A * grad pi_theta. With
grad pi = pi * grad log pi, a trained token t contributes c_t * grad log pi_theta(t), where

    c_t = sum over terms of  weight * share_t * stable_t * (pi_theta / pi_ref)_t * A_t

Two shapes only: [T] trained tokens (this micro batch, flat, no padding) and [S] samples (the whole update, on every
rank and in every micro batch). Because [S] is whole, splitting an update cannot change a gradient. Parts see detached
values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from obverse.estimator.columns import Unfilled, filled
from obverse.estimator.parts.advantages import One
from obverse.estimator.parts.interfaces import Mask, Normalizer, Part, Shaping, Weight
from obverse.estimator.parts.masks import Always
from obverse.estimator.parts.normalizers import PerToken
from obverse.estimator.parts.references import Itself
from obverse.estimator.tables import LOG_RATIO_LIMIT, PartInputs, PolicyOutputs, Samples, Tokens
from obverse.types import Source

if TYPE_CHECKING:
    from torch import Tensor

# What a coefficient multiplies: the token's log-prob, its distribution's entropy, a critic's value of the state before
# it, a reward model's score of the text up to it.
Stream = Literal["logp", "entropy", "value", "score"]


@dataclass(frozen=True)
class Term:
    """How the tokens of one source count.

    Example (the PPO surrogate of GRPO):
        Term(Source.ROLLOUT, Standardized(), Behavior(), Clip(0.2, 0.2), normalizer=PerSequence())
    """

    source: Source
    advantage: Part = field(default_factory=One)
    reference: Part = field(default_factory=Itself)
    mask: Mask = field(default_factory=Always)
    normalizer: Normalizer = field(kw_only=True)
    weight: Weight = field(default=1.0, kw_only=True)
    on: Stream = field(default="logp", kw_only=True)

    @property
    def parts(self) -> tuple[Part | Mask | Normalizer, ...]:
        return (self.advantage, self.reference, self.mask, self.normalizer)

    @property
    def needs(self) -> frozenset[str]:
        """What somebody reads: `behavior`, `anchor`, `advantage`, `entropy`, `reward`, `correct`, ..."""
        read = frozenset[str]().union(*(part.needs for part in self.parts))
        return read | {"entropy"} if self.on == "entropy" else read

    def factors(self, inputs: PartInputs) -> tuple[Tensor, Tensor, Tensor]:
        """The stability mask, the ratio pi_theta / pi_ref (kept finite) and the advantage; [T] each."""
        reference = filled(self.reference(self.shown(inputs, self.reference)))
        log_ratio = (inputs.policy.logp - reference).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        ratio = log_ratio.exp()
        advantage = filled(self.advantage(self.shown(inputs, self.advantage)))
        return filled(self.mask(self.shown(inputs, self.mask), ratio, advantage)), ratio, advantage

    def shown(self, inputs: PartInputs, part: Part | Mask | Normalizer) -> PartInputs:
        """What `part` may look at in this term: a scalar head's score comes without log-probs."""
        return inputs.seen_by(part, has_logp=self.on != "score" or isinstance(part, Itself))

    def weight_at(self, progress: float) -> float:
        return self.weight if isinstance(self.weight, int | float) else self.weight(progress)


def entropy_bonus(weight: float, *sources: Source) -> tuple[Term, ...]:
    """Terms that add weight times the full distribution's entropy, a mean over all tokens of `sources`; none for 0.

    Its gradient needs the whole vocabulary, so it is a stream of its own and no weight on the sampled token.
    """
    normalizer = PerToken(sources)
    return tuple(Term(source, normalizer=normalizer, weight=weight, on="entropy") for source in sources if weight)


def coefficient(inputs: PartInputs, terms: Iterable[Term], on: Stream = "logp") -> Tensor:
    """The number by which each token's log-prob (or entropy) is multiplied; [T], no graph."""
    total = inputs.policy.logp.new_zeros(inputs.policy.logp.shape)
    for term in terms:
        if term.on != on:
            continue
        mine = inputs.tokens.source == int(term.source)
        mask, ratio, advantage = term.factors(inputs)
        normalizer = filled(term.normalizer(term.shown(inputs, term.normalizer), term.source))
        value = normalizer * mask * ratio * advantage
        total = total + term.weight_at(inputs.progress) * value.where(mine, total.new_zeros(()))
    return total


def masked(inputs: PartInputs, terms: Iterable[Term]) -> Tensor:
    """Which tokens have an advantage that some term's stability mask shuts out; bool [T]."""
    shut = inputs.tokens.source != inputs.tokens.source
    for term in terms:
        mask, _, advantage = term.factors(inputs)
        closed = (mask == 0) & (advantage != 0)
        shut = shut | (closed & (inputs.tokens.source == int(term.source)))
    return shut


def has_zero_gradient(samples: Samples, terms: Iterable[Term]) -> Tensor:
    """Which samples no term can move, whatever the policy says: their advantages are settled, and zero; bool [S].

    They count in every group and denominator, and need no forward pass: their gradient is zero.
    """
    moved = samples.counts.new_zeros(samples.counts.shape).bool()
    for term in terms:
        column = int(term.source)
        own = (samples.counts[:, column] > 0).nonzero()[:, 0]
        if not term.advantage.is_policy_independent:
            moved[own, column] = True
            continue
        like = samples.reward.new_zeros(len(own))
        tokens = Tokens(own, own * 0 + column, own * 0, behavior=_unfilled("tokens.behavior", like))
        inputs = PartInputs(
            tokens, samples, PolicyOutputs(_unfilled("policy.logp", like), _unfilled("policy.entropy", like))
        )
        moved[own, column] |= filled(term.advantage(term.shown(inputs, term.advantage))) != 0
    return ~moved.any(1)


def shaped(tokens: Tokens, samples: Samples, shaping: Iterable[Shaping]) -> tuple[Tokens, Tensor]:
    """The tokens with what `shaping` adds to the reward where it arises, and its sum per sample; [S].

    Only the samples of this micro batch have a sum; the others' is 0.
    """
    inputs = PartInputs(tokens, samples, PolicyOutputs(tokens.behavior, _unfilled("policy.entropy", tokens.behavior)))
    added = sum((filled(part(inputs.seen_by(part))) for part in shaping), start=tokens.reward.new_zeros(len(tokens)))
    return replace(tokens, reward=added), inputs.sample_sum(added)


def known_logp_gradient(tokens: Tokens, samples: Samples, terms: Iterable[Term], progress: float) -> Tensor | None:
    """The loss's gradient by the log-probs [T] while the policy has not moved, before any of them is known.

    Every ratio is 1 then. None where a part reads what the policy says, or where the entropy carries a gradient too.
    """
    terms = tuple(terms)
    for term in terms:
        known = term.advantage.is_policy_independent and term.reference.is_policy and term.mask.of_ratio
        if term.on != "logp" or not known:
            return None
    outputs = PolicyOutputs(tokens.behavior, _unfilled("policy.entropy", tokens.behavior))
    return -coefficient(PartInputs(tokens, samples, outputs, progress), terms)


def _unfilled(column: str, like: Tensor) -> Any:
    """A column that raises once a part reads its numbers."""
    return Unfilled(column, like)


def loss(
    tokens: Tokens,
    samples: Samples,
    logp: Tensor,
    entropy: Tensor,
    terms: Iterable[Term],
    progress: float = 0.0,
    value: Tensor | None = None,
) -> Tensor:
    """The scalar whose gradient is the method's gradient; `logp`, `entropy` and a scalar head's `value` [T] carry it.

    Its *value* is the surrogate, not the published loss (they share gradients, not values).
    """
    terms = tuple(terms)
    value = _unfilled("policy.value", logp) if value is None else value
    inputs = PartInputs(tokens, samples, PolicyOutputs(logp.detach(), entropy.detach(), value.detach()), progress)
    total = -(coefficient(inputs, terms) * logp).sum()
    streams: dict[Stream, Tensor] = {"entropy": entropy, "value": value, "score": value}
    for on, stream in streams.items():
        if any(term.on == on for term in terms):
            total = total - (coefficient(inputs, terms, on) * stream).sum()
    return total
