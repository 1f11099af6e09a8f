"""The formula: every method is one coefficient per trained token, and all methods share one loss.

Unified policy gradient estimator (arXiv 2509.04419, eq. 8): grad J = 1_stable * 1/pi_ref * A * grad pi_theta. With
grad pi = pi * grad log pi, a trained token t contributes c_t * grad log pi_theta(t), where

    c_t = sum over terms of  weight * normalizer_t * mask_t * (pi_theta / pi_ref)_t * A_t

pi_ref is the policy in the importance ratio's denominator. The frozen initial model, TRL's `ref_model`, is called
`anchor`: some methods use it as pi_ref, others in a KL.

Two shapes only: [T] trained tokens (of this micro batch, flat, no padding) and [S] samples (of the whole update, on
every rank and in every micro batch). Because [S] covers the whole update, splitting it into micro batches cannot change
a gradient. Parts get detached values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from obverse.estimator.columns import MissingColumn, require_numbers
from obverse.estimator.parts.advantages import One
from obverse.estimator.parts.interfaces import Mask, Normalizer, Part, Shaping, Weight
from obverse.estimator.parts.masks import Always
from obverse.estimator.parts.normalizers import PerToken
from obverse.estimator.parts.references import Itself
from obverse.estimator.tables import LOG_RATIO_LIMIT, PartInputs, PolicyOutputs, Samples, Tokens
from obverse.types import Source

if TYPE_CHECKING:
    from torch import Tensor

# The output that a coefficient multiplies: the token's log-prob, the entropy of its distribution, minus that
# distribution's divergence from a target, a critic's value of the state before it, a reward model's score of the text
# up to it.
Stream = Literal["logp", "entropy", "divergence", "value", "score"]


@dataclass(frozen=True)
class Term:
    """The contribution of the tokens of one source to the loss: advantage, reference, mask, normalizer and weight.

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

    def record(self) -> dict[str, str | float]:
        """The names of the term's parts, as in the method table, and its weight."""
        return {
            "source": self.source.label,
            "on": self.on,
            "mask": str(self.mask),
            "reference": str(self.reference),
            "advantage": str(self.advantage),
            "share": str(self.normalizer),
            "weight": self.weight if isinstance(self.weight, int | float) else str(self.weight),
        }

    @property
    def needs(self) -> frozenset[str]:
        """The columns that the term reads: `behavior`, `anchor`, `advantage`, `entropy`, `reward`, `correct`, ..."""
        needs = frozenset[str]().union(*(part.needs for part in self.parts))
        return needs | {"entropy"} if self.on == "entropy" else needs

    def mask_ratio_advantage(self, inputs: PartInputs) -> tuple[Tensor, Tensor, Tensor]:
        """The stability mask, the ratio pi_theta / pi_ref (clamped to be finite) and the advantage; [T] each."""
        reference = require_numbers(self.reference(self.inputs_of(inputs, self.reference)))
        log_ratio = (inputs.policy.logp - reference).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        ratio = log_ratio.exp()
        advantage = require_numbers(self.advantage(self.inputs_of(inputs, self.advantage)))
        return require_numbers(self.mask(self.inputs_of(inputs, self.mask), ratio, advantage)), ratio, advantage

    def inputs_of(self, inputs: PartInputs, part: Part | Mask | Normalizer) -> PartInputs:
        """The inputs of `part` in this term: a term on a scalar head's score has no log-probs."""
        return inputs.visible_to(part, has_logp=self.on != "score" or isinstance(part, Itself))

    def weight_at(self, progress: float) -> float:
        return self.weight if isinstance(self.weight, int | float) else self.weight(progress)


def entropy_bonus(weight: float, *sources: Source) -> tuple[Term, ...]:
    """Terms that add weight times the full distribution's entropy, a mean over all tokens of `sources`; () for 0.

    The entropy's gradient needs the whole vocabulary, so it is a stream of its own, not a weight on the sampled token.
    """
    normalizer = PerToken(sources)
    return tuple(Term(source, normalizer=normalizer, weight=weight, on="entropy") for source in sources if weight)


def coefficient(inputs: PartInputs, terms: Iterable[Term], on: Stream = "logp") -> Tensor:
    """The coefficient of each token's log-prob (or of the stream `on`); [T], detached."""
    total = inputs.policy.logp.new_zeros(inputs.policy.logp.shape)
    for term in terms:
        if term.on != on:
            continue
        is_source = inputs.tokens.source == int(term.source)
        mask, ratio, advantage = term.mask_ratio_advantage(inputs)
        normalizer = require_numbers(term.normalizer(term.inputs_of(inputs, term.normalizer), term.source))
        value = normalizer * mask * ratio * advantage
        total = total + term.weight_at(inputs.progress) * value.where(is_source, total.new_zeros(()))
    return total


def masked(inputs: PartInputs, terms: Iterable[Term]) -> Tensor:
    """Which tokens have an advantage but are masked out by some term's stability mask; bool [T]."""
    is_masked = inputs.tokens.source != inputs.tokens.source
    for term in terms:
        mask, _, advantage = term.mask_ratio_advantage(inputs)
        excluded = (mask == 0) & (advantage != 0)
        is_masked = is_masked | (excluded & (inputs.tokens.source == int(term.source)))
    return is_masked


def has_zero_gradient(samples: Samples, terms: Iterable[Term]) -> Tensor:
    """Which samples have a zero gradient whatever the policy outputs: their advantages are known, and 0; bool [S].

    They count in every group and denominator, but need no forward pass.
    """
    has_gradient = samples.counts.new_zeros(samples.counts.shape).bool()
    for term in terms:
        column = int(term.source)
        rows = (samples.counts[:, column] > 0).nonzero()[:, 0]
        if not term.advantage.is_policy_independent:
            has_gradient[rows, column] = True
            continue
        like = samples.reward.new_zeros(len(rows))
        tokens = Tokens(rows, rows * 0 + column, rows * 0, behavior=_missing("tokens.behavior", like))
        inputs = PartInputs(
            tokens, samples, PolicyOutputs(_missing("policy.logp", like), _missing("policy.entropy", like))
        )
        has_gradient[rows, column] |= require_numbers(term.advantage(term.inputs_of(inputs, term.advantage))) != 0
    return ~has_gradient.any(1)


def shaped(tokens: Tokens, samples: Samples, shaping: Iterable[Shaping]) -> tuple[Tokens, Tensor]:
    """The tokens with the shaping reward in their `reward` column, and its sum per sample; [S].

    The sum is 0 for samples that are not in this micro batch.
    """
    inputs = PartInputs(tokens, samples, PolicyOutputs(tokens.behavior, _missing("policy.entropy", tokens.behavior)))
    added = sum(
        (require_numbers(part(inputs.visible_to(part))) for part in shaping), start=tokens.reward.new_zeros(len(tokens))
    )
    return replace(tokens, reward=added), inputs.sample_sum(added)


class KnownGradients(NamedTuple):
    """The loss's gradients by log-probs and divergences that do not depend on the policy's outputs; [T] each."""

    logp: Tensor
    divergence: Tensor


def known_gradients(
    tokens: Tokens, samples: Samples, terms: Iterable[Term], progress: float, is_unmoved: bool = True
) -> KnownGradients | None:
    """The loss's gradients before a forward pass; None if one of them depends on what the policy computes.

    They are known if no part reads policy outputs, no other stream has a gradient, and every ratio is 1: with `Itself`
    as pi_ref always, otherwise before the policy's first optimizer step (`is_unmoved`).
    """
    terms = tuple(terms)
    for term in terms:
        reads_policy = not (term.advantage.is_policy_independent and term.mask.reads_ratio_only)
        is_one = term.reference.equals_policy_at_start if is_unmoved else isinstance(term.reference, Itself)
        if term.on not in ("logp", "divergence") or reads_policy or not is_one:
            return None
    outputs = PolicyOutputs(tokens.behavior, _missing("policy.entropy", tokens.behavior))
    inputs = PartInputs(tokens, samples, outputs, progress)
    return KnownGradients(-coefficient(inputs, terms), coefficient(inputs, terms, "divergence"))


def _missing(column: str, like: Tensor) -> Any:
    """A placeholder for a column without numbers."""
    return MissingColumn(column, like)


def loss(
    tokens: Tokens,
    samples: Samples,
    logp: Tensor,
    entropy: Tensor,
    terms: Iterable[Term],
    progress: float = 0.0,
    value: Tensor | None = None,
    divergence: Tensor | None = None,
    update: PartInputs | None = None,
) -> Tensor:
    """The scalar loss of a micro batch; its gradient flows to `logp`, `entropy`, a scalar head's `value` and the
    `divergence` from a target, [T] each.

    `update` has the tokens and policy outputs of the whole update, for methods with parts that need them (`needs` has
    "update"); None if the micro batch is the update. ConfigError if it is needed and missing.

    The gradient is that of the published loss, the value is not: it is the surrogate's.
    """
    terms = tuple(terms)
    value = _missing("policy.value", logp) if value is None else value
    inputs = PartInputs(
        tokens, samples, PolicyOutputs(logp.detach(), entropy.detach(), value.detach()), progress, update
    )
    total = -(coefficient(inputs, terms) * logp).sum()
    streams: dict[Stream, Tensor] = {"entropy": entropy, "value": value, "score": value}
    if any(term.on == "divergence" for term in terms):
        streams["divergence"] = -(_missing("policy.divergence", logp) if divergence is None else divergence)
    for on, stream in streams.items():
        if any(term.on == on for term in terms):
            total = total - (coefficient(inputs, terms, on) * stream).sum()
    return total
