"""A post-training method as a value: what it samples, what it keeps, and the terms of its loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from obverse.estimator.columns import WRITTEN_BY_CRITIC, check_needs, part_needs
from obverse.estimator.divergence import Divergence
from obverse.estimator.formula import Stream, Term
from obverse.estimator.parts.interfaces import (
    FollowUp,
    Memory,
    ProblemTransform,
    RequestFunction,
    SampleSelector,
    Shaping,
)
from obverse.estimator.parts.selection import Everything
from obverse.estimator.replay import Replay
from obverse.estimator.teacher import Teacher, TeacherContext
from obverse.notebook_html import block, paragraph, table, text
from obverse.types import Group, Sample, Source, without_grade

if TYPE_CHECKING:
    from torch import Tensor

    from obverse.estimator.parts.inputs import GreedyMix
    from obverse.estimator.parts.values import GAE
    from obverse.estimator.tables import PartInputs


@dataclass(frozen=True)
class Method:
    """A method: its generation requests, selection, terms, and optional parts.

    Example:
        Method(ask=Request(demonstrations=1), terms=(Term(Source.DEMONSTRATION, normalizer=PerToken()),))     # SFT
    """

    ask: RequestFunction
    terms: tuple[Term, ...]
    keep: SampleSelector = field(default_factory=Everything)
    run: Mapping[str, Any] = field(default_factory=dict)  # run options with which the paper got its numbers
    shaping: tuple[Shaping, ...] = ()  # added to the reward before an update
    critic: GAE | None = None  # computes the `advantage` column from a value model
    memory: Memory | None = None  # a number that persists across updates
    inputs: GreedyMix | None = None  # what the policy reads in place of the response's embeddings
    teacher: Teacher | None = None  # fills the `teacher` column, and is a target of the divergence
    divergence: Divergence | None = None  # of terms with on="divergence"
    replay: Replay | None = None  # a store of own right samples; their tokens have the source REPLAYED
    follow_up: FollowUp | None = None  # requests further samples of a problem once those so far are graded
    entropy_top_k: int | None = None  # the column `entropy` is that of the renormalized most likely tokens
    problems: ProblemTransform | None = None  # replaces the rows of the data set when a run loads them
    max_rounds: int = 1  # rounds of sampling per step, until prompts_per_step problems have samples to train on

    def __post_init__(self) -> None:
        """Raise ValueError if a part's `needs` names no column, or one that this method cannot provide."""
        for part in self.readers:
            check_needs(part)
        for term in self.terms:
            if "sampler" in term.needs and term.source is not Source.ROLLOUT:
                raise ValueError(
                    f"a term on {term.source.label} tokens needs the column 'sampler', which only rollouts have"
                )
        for shaping in self.shaping:
            if unavailable := shaping.needs & {"entropy", "update", *WRITTEN_BY_CRITIC}:
                raise ValueError(
                    f"{type(shaping).__name__} shapes the reward before the update and needs "
                    f"{sorted(unavailable)[0]!r}, which is computed during it: a shaping may need behavior, anchor, "
                    "sampler, reward and correct"
                )
        if self.entropy_top_k is not None and ("entropy" in self.streams or self.entropy_top_k < 1):
            raise ValueError("an entropy of the most likely tokens has no gradient: an entropy bonus needs all of them")
        if self.reads_update and not self.trains_policy:
            raise ValueError("a part needs 'update', the policy's outputs over the whole update, and none is trained")
        if (self.replay is None) != (Source.REPLAYED not in self.sources) or (self.replay and self.max_rounds > 1):
            raise ValueError(
                "terms on replayed tokens and the Method's replay=Replay(...) need each other, and take one round of "
                "sampling"
            )
        if self.shaping and self.needs("rewards"):
            raise ValueError(
                "a shaping adds to the summed reward, and a part reads 'rewards', each reward by itself: leave one out"
            )
        self._check_teacher()
        if self.memory is None and any("memory" in part_needs(part) for part in self.readers):
            raise ValueError(
                "a part needs the column 'memory', which only a memory provides: give the Method memory=..."
            )

    def _check_teacher(self) -> None:
        """Raise ValueError where teacher, divergence and the terms that read them do not belong together."""
        uses_target = self.compares_with("teacher")
        reads_column = any("teacher" in part_needs(part) for part in self.readers)
        if self.teacher is None and (reads_column or uses_target):
            raise ValueError("a part or the divergence reads a teacher: give the Method teacher=Teacher(...)")
        if self.teacher is not None and not (reads_column or uses_target):
            raise ValueError("no part and no divergence reads the teacher: leave teacher out")
        if (self.divergence is None) == ("divergence" in self.streams):
            raise ValueError('terms with on="divergence" and the Method\'s divergence=Divergence(...) need each other')
        if self.divergence is not None and self.inputs is not None:
            raise ValueError("a divergence compares distributions after the same tokens, which inputs= changes")

    @property
    def readers(self) -> list[object]:
        """All parts that may declare `needs`."""
        parts: list[object] = [part for term in self.terms for part in term.parts]
        optional = (*self.shaping, self.critic, self.memory, self.keep, self.follow_up)
        return parts + [part for part in optional if part is not None]

    @property
    def sources(self) -> frozenset[Source]:
        """The sources of the tokens that the terms train."""
        return frozenset(term.source for term in self.terms)

    @property
    def streams(self) -> frozenset[Stream]:
        """The policy outputs that the terms' coefficients multiply."""
        return frozenset(term.on for term in self.terms)

    @property
    def trains_policy(self) -> bool:
        """Whether a language model is trained; False for a reward model, which has only a scalar head."""
        return bool(self.streams & {"logp", "entropy", "divergence"})

    def compares_with(self, target: Literal["anchor", "teacher"]) -> bool:
        """Whether the method's divergence compares the policy's distribution with that of `target`."""
        return self.divergence is not None and self.divergence.target == target

    @property
    def reads_anchor(self) -> bool:
        """Whether the frozen initial model is used: its log-probs, its distribution, or as the teacher."""
        return (
            self.needs("anchor")
            or self.compares_with("anchor")
            or (self.teacher is not None and self.teacher.who == "initial")
        )

    @property
    def reads_update(self) -> bool:
        """Whether a part reads the policy's outputs over the whole update, which a first pass computes."""
        return self.needs("update")

    @property
    def needs_whole_groups(self) -> bool:
        """Whether all samples of a problem must be in one micro batch, because a part compares their policy outputs."""
        parts = [part for term in self.terms for part in term.parts]
        return any(part.needs_whole_groups for part in [*parts, *([self.memory] if self.memory else [])])

    def needs(self, name: str, source: Source | None = None) -> bool:
        """Whether a part (of a term of `source`, if given) reads a column: behavior, anchor, reward, correct, ..."""
        needs = [term.needs for term in self.terms if source in (None, term.source)]
        if source is None:
            optional = [*self.shaping, self.critic, self.memory, self.keep, self.follow_up]
            needs += [part_needs(part) for part in optional if part is not None]
        return any(name in part for part in needs)

    def reads_teacher(self, sample: Sample) -> bool:
        """Whether a part reads the column `teacher`, or the divergence the teacher's distribution, at the sample."""
        if self.teacher is None:
            return False
        if any("teacher" in part_needs(part) for part in (*self.shaping, self.critic, self.memory) if part is not None):
            return True
        is_target = self.compares_with("teacher")
        terms = [term for term in self.terms if "teacher" in term.needs or (is_target and term.on == "divergence")]
        return any(term.source in sample.sources for term in terms)

    def reads_behavior(self, source: Source) -> bool:
        """Whether a part reads `behavior` at tokens of `source`, one whose tokens the policy did not sample."""
        parts = [part for part in (*self.shaping, self.memory) if part is not None and not part.rollout_tokens_only]
        return self.needs("behavior", source) or any("behavior" in part_needs(part) for part in parts)

    def memory_observation(self, inputs: PartInputs) -> Tensor | None:
        """The memory's observation of each sample of a micro batch; [S], or None without a memory."""
        return None if self.memory is None else self.memory.observe(inputs.visible_to(self.memory))

    @property
    def grades(self) -> bool:
        """Whether a part or the teacher reads rewards or grades: then the data needs answers."""
        by_teacher = self.teacher is not None and self.teacher.reads_grades
        return by_teacher or any(self.needs(name) for name in ("reward", "correct", "rewards"))

    @property
    def num_follow_ups(self) -> int:
        """The largest number of rounds in which further samples of a problem are requested; 0 without `follow_up`."""
        return 0 if self.follow_up is None else self.follow_up.max_rounds

    def select(self, group: Group) -> list[Sample]:
        """The samples to train on: those that `keep` selects and some term has a source of.

        A sample that the teacher should score and has no context for is left out.
        """
        return [
            sample
            for sample in self.kept_samples(group)
            if sample.kind != "greedy"
            and self.sources.intersection(sample.sources)
            and not (self.reads_teacher(sample) and self.teacher_context(group, sample) is None)
        ]

    def teacher_context(self, group: Group, sample: Sample) -> TeacherContext | None:
        """What the teacher reads beside the problem for a sample of the group; None without teacher or context."""
        return None if self.teacher is None else self.teacher.context(group, sample)

    def kept_samples(self, group: Group) -> list[Sample]:
        """The samples of the group that `keep` selects."""
        visible = self.visible_group(group, self.keep)
        originals = {id(copy): sample for copy, sample in zip(visible.samples, group.samples, strict=True)}
        return [originals.get(id(sample), sample) for sample in self.keep(visible)]

    def visible_group(self, group: Group, reader: object) -> Group:
        """The group for `reader`: of a method that grades nothing, reading a grade raises ConfigError."""
        if self.grades:
            return group
        name = getattr(reader, "__name__", type(reader).__name__)
        return Group(group.problem, [without_grade(sample, name) for sample in group.samples])

    def _repr_html_(self) -> str:
        """The method in a notebook: a row per term with the parts that make its coefficient, and the other parts."""
        names = ("source", "on", "weight", "share", "mask", "reference", "advantage")
        rows = [[term.record()[name] for name in names] for term in self.terms]
        header = ("tokens", "gradient of", "weight", "normalizer", "mask", "pi_ref", "advantage")
        optional: dict[str, object] = {
            "shaping": self.shaping,
            "critic": self.critic,
            "memory": self.memory,
            "inputs": self.inputs,
        }
        optional |= {"teacher": self.teacher, "divergence": self.divergence, "replay": self.replay}
        optional["further samples"] = self.follow_up
        parts = {"samples": self.ask, "selection": self.keep, **optional}
        lines = "; ".join(f"{name}: {part}" for name, part in parts.items() if part)
        formula = "c = weight * normalizer * mask * (pi / pi_ref) * advantage, summed over the terms"
        return block(
            paragraph(formula, is_soft=True), table(header, rows), paragraph(text(lines, most=2000), is_soft=True)
        )
