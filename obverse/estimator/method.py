"""A post-training method is a value: what it asks for, what it keeps, how each token counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from obverse.estimator.columns import WRITTEN_BY_CRITIC, check_needs, part_needs
from obverse.estimator.formula import Stream, Term
from obverse.estimator.parts.interfaces import Ask, Keep, Memory, Shaping
from obverse.estimator.parts.selection import Everything
from obverse.types import Group, Sample, Source, unread

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.parts.inputs import GreedyMix
    from obverse.estimator.parts.values import GAE
    from obverse.estimator.tables import PartInputs


@dataclass(frozen=True)
class Method:
    """Everything in which one method differs from another.

    Example:
        Method(ask=Request(demonstrations=1), terms=(Term(Source.DEMONSTRATION, normalizer=PerToken()),))     # SFT
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

    def __post_init__(self) -> None:
        """Raise ValueError where a part's `needs` names no column, or one that nothing of this method can fill."""
        for part in self.readers:
            check_needs(part)
        for term in self.terms:
            if "sampler" in term.needs and term.source is not Source.ROLLOUT:
                raise ValueError(
                    f"a term on {term.source.label} tokens needs the column 'sampler', which only own samples have"
                )
        for shaping in self.shaping:
            if lost := shaping.needs & {"entropy", *WRITTEN_BY_CRITIC}:
                raise ValueError(
                    f"{type(shaping).__name__} shapes the reward before the update and needs {sorted(lost)[0]!r}, "
                    "which is computed in it: a shaping may need behavior, anchor, sampler, reward and correct"
                )
        if self.memory is None and any("memory" in part_needs(part) for part in self.readers):
            raise ValueError("a part needs the column 'memory', which only a memory fills: give the Method memory=...")

    @property
    def readers(self) -> list[object]:
        """Everything that may declare `needs`."""
        parts: list[object] = [part for term in self.terms for part in term.parts]
        return parts + [each for each in (*self.shaping, self.critic, self.memory, self.keep) if each is not None]

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
            read += [part_needs(other) for other in others if other is not None]
        return any(name in each for each in read)

    def reads_behavior(self, source: Source) -> bool:
        """Whether something reads `behavior` at tokens of `source`, which is not the policy's own."""
        others = [part for part in (*self.shaping, self.memory) if part is not None and not part.own_tokens_only]
        return self.needs("behavior", source) or any("behavior" in part_needs(part) for part in others)

    def observed(self, inputs: PartInputs) -> Tensor | None:
        """What the samples of a micro batch show to the memory; [S], or None where nothing is kept."""
        return None if self.memory is None else self.memory.observe(inputs.seen_by(self.memory))

    @property
    def grades(self) -> bool:
        """Whether a verdict decides anything: then answers are needed."""
        return self.needs("reward") or self.needs("correct")

    def select(self, group: Group) -> list[Sample]:
        """The samples that train: what `keep` leaves, without those that no term looks at."""
        return [
            sample
            for sample in self.kept(group)
            if sample.kind != "greedy" and self.sources.intersection(sample.sources)
        ]

    def kept(self, group: Group) -> list[Sample]:
        """What `keep` leaves of the group."""
        shown = self.shown(group, self.keep)
        originals = {id(copy): sample for copy, sample in zip(shown.samples, group.samples, strict=True)}
        return [originals.get(id(sample), sample) for sample in self.keep(shown)]

    def shown(self, group: Group, reader: object) -> Group:
        """The group as `reader` may see it: where nothing is graded, reading a verdict raises ConfigError."""
        if self.grades:
            return group
        name = getattr(reader, "__name__", type(reader).__name__)
        return Group(group.problem, [unread(sample, name) for sample in group.samples])
