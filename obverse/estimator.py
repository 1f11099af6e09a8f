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

from obverse.columns import Unfilled, filled
from obverse.parts.advantages import One
from obverse.parts.gates import Always
from obverse.parts.part import Gate, Part, Shaping, Share, Weight
from obverse.parts.references import Itself
from obverse.parts.shares import PerToken
from obverse.records import Source
from obverse.view import LOG_RATIO_LIMIT, Live, Samples, Tokens, View

if TYPE_CHECKING:
    from torch import Tensor

# What a coefficient multiplies: the token's log-prob, its distribution's entropy, a critic's value of the state before
# it, a reward model's score of the text up to it.
Stream = Literal["logp", "entropy", "value", "score"]


@dataclass(frozen=True)
class Term:
    """How the tokens of one source count.

    Example (the PPO surrogate of GRPO):
        Term(Source.ROLLOUT, Standardized(), Behavior(), Clip(0.2, 0.2), share=PerSequence())
    """

    source: Source
    advantage: Part = field(default_factory=One)
    reference: Part = field(default_factory=Itself)
    stable: Gate = field(default_factory=Always)
    share: Share = field(kw_only=True)
    weight: Weight = field(default=1.0, kw_only=True)
    on: Stream = field(default="logp", kw_only=True)

    @property
    def parts(self) -> tuple[Part | Gate | Share, ...]:
        return (self.advantage, self.reference, self.stable, self.share)

    @property
    def needs(self) -> frozenset[str]:
        """What somebody reads: `behavior`, `anchor`, `advantage`, `entropy`, `reward`, `correct`, ..."""
        read = frozenset[str]().union(*(part.needs for part in self.parts))
        return read | {"entropy"} if self.on == "entropy" else read

    def factors(self, view: View) -> tuple[Tensor, Tensor, Tensor]:
        """The stability mask, the ratio pi_theta / pi_ref (kept finite) and the advantage; [T] each."""
        reference = filled(self.reference(self.shown(view, self.reference)))
        log_ratio = (view.live.logp - reference).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        ratio = log_ratio.exp()
        advantage = filled(self.advantage(self.shown(view, self.advantage)))
        return filled(self.stable(self.shown(view, self.stable), ratio, advantage)), ratio, advantage

    def shown(self, view: View, part: Part | Gate | Share) -> View:
        """What `part` may look at in this term: a scalar head's score comes without log-probs."""
        return view.seen_by(part, has_logp=self.on != "score" or isinstance(part, Itself))

    def weight_at(self, progress: float) -> float:
        return self.weight if isinstance(self.weight, int | float) else self.weight(progress)


def entropy_bonus(weight: float, *sources: Source) -> tuple[Term, ...]:
    """Terms that add weight times the full distribution's entropy, a mean over all tokens of `sources`; none for 0.

    Its gradient needs the whole vocabulary, so it is a stream of its own and no weight on the sampled token.
    """
    share = PerToken(sources)
    return tuple(Term(source, share=share, weight=weight, on="entropy") for source in sources if weight)


def coefficient(view: View, terms: Iterable[Term], on: Stream = "logp") -> Tensor:
    """The number by which each token's log-prob (or entropy) is multiplied; [T], no graph."""
    total = view.live.logp.new_zeros(view.live.logp.shape)
    for term in terms:
        if term.on != on:
            continue
        mine = view.tokens.source == int(term.source)
        stable, ratio, advantage = term.factors(view)
        share = filled(term.share(term.shown(view, term.share), term.source))
        value = share * stable * ratio * advantage
        total = total + term.weight_at(view.progress) * value.where(mine, total.new_zeros(()))
    return total


def masked(view: View, terms: Iterable[Term]) -> Tensor:
    """Which tokens have an advantage that some term's stability mask shuts out; bool [T]."""
    shut = view.tokens.source != view.tokens.source
    for term in terms:
        stable, _, advantage = term.factors(view)
        closed = (stable == 0) & (advantage != 0)
        shut = shut | (closed & (view.tokens.source == int(term.source)))
    return shut


def still(samples: Samples, terms: Iterable[Term]) -> Tensor:
    """Which samples no term can move, whatever the policy says: their advantages are settled, and zero; bool [S].

    They count in every group and denominator, and need no forward pass: their gradient is zero.
    """
    moved = samples.counts.new_zeros(samples.counts.shape).bool()
    for term in terms:
        column = int(term.source)
        own = (samples.counts[:, column] > 0).nonzero()[:, 0]
        if not term.advantage.settled:
            moved[own, column] = True
            continue
        like = samples.reward.new_zeros(len(own))
        tokens = Tokens(own, own * 0 + column, own * 0, behavior=_unfilled("tokens.behavior", like))
        view = View(tokens, samples, Live(_unfilled("live.logp", like), _unfilled("live.entropy", like)))
        moved[own, column] |= filled(term.advantage(term.shown(view, term.advantage))) != 0
    return ~moved.any(1)


def shaped(tokens: Tokens, samples: Samples, shaping: Iterable[Shaping]) -> tuple[Tokens, Tensor]:
    """The tokens with what `shaping` adds to the reward where it arises, and its sum per sample; [S].

    Only the samples of this micro batch have a sum; the others' is 0.
    """
    view = View(tokens, samples, Live(tokens.behavior, _unfilled("live.entropy", tokens.behavior)))
    added = sum((filled(part(view.seen_by(part))) for part in shaping), start=tokens.reward.new_zeros(len(tokens)))
    return replace(tokens, reward=added), view.sample_sum(added)


def foreseen(tokens: Tokens, samples: Samples, terms: Iterable[Term], progress: float) -> Tensor | None:
    """The loss's gradient by the log-probs [T] while the policy has not moved, before any of them is known.

    Every ratio is 1 then. None where a part reads what the policy says, or where the entropy carries a gradient too.
    """
    terms = tuple(terms)
    for term in terms:
        known = term.advantage.settled and term.reference.is_policy and term.stable.of_ratio
        if term.on != "logp" or not known:
            return None
    live = Live(tokens.behavior, _unfilled("live.entropy", tokens.behavior))
    return -coefficient(View(tokens, samples, live, progress), terms)


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
    value = _unfilled("live.value", logp) if value is None else value
    view = View(tokens, samples, Live(logp.detach(), entropy.detach(), value.detach()), progress)
    total = -(coefficient(view, terms) * logp).sum()
    streams: dict[Stream, Tensor] = {"entropy": entropy, "value": value, "score": value}
    for on, stream in streams.items():
        if any(term.on == on for term in terms):
            total = total - (coefficient(view, terms, on) * stream).sum()
    return total
