"""The teacher of a method: which model scores the policy's tokens, and which prompt it reads before them.

A teacher reads the response's token ids as they are, after a prompt of its own; one forward pass without a gradient
computes the log-prob of every token. With the behavior policy as pi_ref and A = log pi_T - log pi the estimator is
on-policy distillation (Thinking Machines 2025; SDFT 2601.19897, OPSD 2601.18734, SDPO 2601.20802). No torch import.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, cast, get_args

from obverse.estimator.parts.interfaces import Named
from obverse.types import Group, Sample

# model: another one (--teacher_model or --teacher_url); policy: the policy as it is when it samples; initial: the
# policy as the run began (with an adapter the base without it); average: a moving average of the policy's weights
TeacherModel = Literal["model", "policy", "initial", "average"]
# prompt: the problem's prompt; demonstration, sibling, feedback: a prompt that also has the demonstration, the first
# right answer of another rollout of the problem, or the verifier's reason for a wrong one
Context = Literal["prompt", "demonstration", "sibling", "feedback"]


class TeacherContext(NamedTuple):
    """What a teacher reads beside the problem: its kind, and the text of it, "" for the plain prompt."""

    kind: Context
    text: str


@dataclass(frozen=True)
class Teacher(Named):
    """The model that scores the sampled tokens, and the contexts that it reads, in order of preference.

    Args:
        who: Which model: see `TeacherModel`.
        sees: The contexts, or one of them; a sample gets the first one that it has.
        rate: Share of the policy in the average after each optimizer step (who="average"):
            theta_T <- (1 - rate) theta_T + rate theta.
        threshold: Reward from which a sibling counts as right.

    Raises ValueError for no context and for a rate outside (0, 1].
    """

    who: TeacherModel = "model"
    sees: tuple[Context, ...] | Context = ("prompt",)
    rate: float = 0.05
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if isinstance(self.sees, str):
            object.__setattr__(self, "sees", (self.sees,))
        for name, value, choices in (("who", [self.who], TeacherModel), ("sees", self.sees, Context)):
            if unknown := [word for word in value if word not in get_args(choices)]:
                raise ValueError(
                    f"{name} of a teacher is one of {', '.join(get_args(choices))}, not {unknown[0]!r:.40}"
                )
        if not self.sees:
            raise ValueError("a teacher reads at least one context: sees=('prompt',)")
        if not 0 < self.rate <= 1:
            raise ValueError(f"the teacher's rate must be above 0 and at most 1, not {self.rate:g}")

    def __str__(self) -> str:
        rate = f", rate={self.rate:g}" if self.who == "average" else ""
        threshold = f", threshold={self.threshold:g}" if "sibling" in self.sees else ""
        return f"teacher({self.who}{rate}, sees={'+'.join(self.sees)}{threshold})"

    @property
    def contexts(self) -> tuple[Context, ...]:
        """The contexts in order of preference."""
        return cast("tuple[Context, ...]", self.sees)

    @property
    def reads_grades(self) -> bool:
        """Whether the context depends on verdicts, so that the teacher can only score after them."""
        return "sibling" in self.sees or "feedback" in self.sees

    def context(self, group: Group, sample: Sample) -> TeacherContext | None:
        """The context that the teacher reads for `sample`, one of `group.samples`; None if it has none.

        The sibling is the first rollout of the group, other than the sample, whose reward is at least `threshold`
        (2601.20802, the authors' ray_trainer._get_solution).
        """
        for kind in self.contexts:
            if kind == "prompt":
                return TeacherContext(kind, "")
            if kind == "demonstration" and group.problem.demonstration:
                return TeacherContext(kind, group.problem.demonstration_text)
            if kind == "sibling":
                for sibling in group.of("rollout"):
                    if sibling is not sample and sibling.reward >= self.threshold:
                        return TeacherContext(kind, sibling.text)
            if kind == "feedback" and sample.grade.correct is False and sample.grade.reason:
                return TeacherContext(kind, sample.grade.reason)
        return None


@dataclass(frozen=True)
class Taught(Named):
    """Keep the rollouts for which the teacher has a context; the others leave every denominator. Source: 2601.20802.

    The only right sample of a group has no right sibling and is not kept, nor is a failed group without feedback.
    """

    teacher: Teacher

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"reward", "correct"} if self.teacher.reads_grades else ())

    def __str__(self) -> str:
        return "taught()"

    def __call__(self, group: Group) -> list[Sample]:
        return [sample for sample in group.of("rollout") if self.teacher.context(group, sample) is not None]
