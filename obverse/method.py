"""A post-training method is a value: what it asks for, what it keeps, how each token counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from obverse.estimator import Term
from obverse.parts.part import Ask, Keep
from obverse.parts.plans import Everything
from obverse.records import Group, Sample, Source


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

    @property
    def sources(self) -> frozenset[Source]:
        """The sources that some term trains."""
        return frozenset(term.source for term in self.terms)

    def needs(self, column: str, source: Source | None = None) -> bool:
        """Whether a term (of `source`, if given) reads a token column: behavior, anchor, advantage or entropy."""
        return any(column in term.needs for term in self.terms if source in (None, term.source))

    def select(self, group: Group) -> list[Sample]:
        """The samples that train: what `keep` leaves, without those that no term looks at."""
        return [sample for sample in self.keep(group) if self.sources.intersection(sample.sources)]
