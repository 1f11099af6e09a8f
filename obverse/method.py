"""A post-training method is a value: what it asks for, what it keeps, how each token counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from obverse.estimator import Stream, Term
from obverse.parts.part import Ask, Keep, Memory, Shaping
from obverse.parts.plans import Everything
from obverse.records import Group, Sample, Source

if TYPE_CHECKING:
    from obverse.parts.inputs import GreedyMix
    from obverse.parts.values import GAE


@dataclass(frozen=True)
class Method:
    """Everything in which one method differs from another.

    Example:
        Method(ask=Request(demonstrations=1), terms=(Term(Source.DEMONSTRATION, share=PerToken()),))     # SFT
    """

    ask: Ask
    terms: tuple[Term, ...]
    keep: Keep = field(default_factory=Everything)
    run: Mapping[str, Any] = field(default_factory=dict)  # run options with which the paper got its numbers
    shaping: tuple[Shaping, ...] = ()  # added to the reward before an update
    critic: GAE | None = None  # how a value model's expectations become the `advantage` column
    memory: Memory | None = None  # a number that outlives an update
    inputs: GreedyMix | None = None  # what the policy reads in place of the response's embeddings
    max_rounds: int = 1  # collections per step, until prompts_per_step problems have something to train on

    @property
    def sources(self) -> frozenset[Source]:
        """The sources that some term trains."""
        return frozenset(term.source for term in self.terms)

    @property
    def streams(self) -> frozenset[Stream]:
        """What the terms' coefficients multiply."""
        return frozenset(term.on for term in self.terms)

    @property
    def trains_policy(self) -> bool:
        """Whether a language model learns; False: only a scalar head does, a reward model."""
        return bool(self.streams & {"logp", "entropy"})

    @property
    def together(self) -> bool:
        """Whether the samples of a problem must share a micro batch, because a part compares their live numbers."""
        parts = [part for term in self.terms for part in term.parts]
        return any(part.together for part in [*parts, *([self.memory] if self.memory else [])])

    def needs(self, name: str, source: Source | None = None) -> bool:
        """Whether something reads a column (a term of `source`, if given): behavior, anchor, reward, correct, ..."""
        read = [term.needs for term in self.terms if source in (None, term.source)]
        if source is None:
            others = [*self.shaping, self.critic, self.memory, self.keep]
            read += [getattr(other, "needs", frozenset()) for other in others if other is not None]
        return any(name in each for each in read)

    @property
    def grades(self) -> bool:
        """Whether a verdict decides anything: then answers are needed."""
        return self.needs("reward") or self.needs("correct")

    def select(self, group: Group) -> list[Sample]:
        """The samples that train: what `keep` leaves, without those that no term looks at."""
        return [
            sample
            for sample in self.keep(group)
            if sample.kind != "greedy" and self.sources.intersection(sample.sources)
        ]
