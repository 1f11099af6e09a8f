"""Demonstrations as problems of their own: the next step, given those before it. No torch import."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import pstdev
from typing import ClassVar

from obverse.estimator.parts.interfaces import Named
from obverse.types import Group, Problem, Prompt, Sample

BLANK_LINES = re.compile(r"(?<=\n)\s*\n(?=\S)")


@dataclass(frozen=True)
class NextStep(Named):
    """A problem per step of a demonstration but the last: its prompt has the steps before, its answer is the step.

    A plain prompt is continued by the steps; in a conversation they follow in the last message, behind `given`. The
    answer is graded by `verifier`. A demonstration of one text has its paragraphs as steps. Source: 2510.25992 [abs];
    the
    wording and the place of the steps are ours.
    """

    verifier: str = "similarity"
    given: str = "\n\nThe solution so far:\n{steps}\n\nThink, then write the next step only."
    first: str = "\n\nThink, then write the first step of the solution only."

    def __call__(self, problems: Sequence[Problem]) -> list[Problem]:
        return [step for problem in problems for step in self.steps_of(problem)]

    def steps_of(self, problem: Problem) -> list[Problem]:
        """The problems of one demonstration; none for fewer than two steps."""
        steps = split_steps(problem.demonstration)
        return [
            replace(
                problem,
                id=f"{problem.id}-step-{index + 1}",
                prompt=self._prompt(problem.prompt, "".join(steps[:index])),
                answer=step.strip(),
                demonstration=(step,),
                verifier=self.verifier,
                chosen=None,
                rejected=None,
            )
            for index, step in enumerate(steps[:-1])
            if step.strip()
        ]

    def _prompt(self, prompt: Prompt, steps: str) -> Prompt:
        if isinstance(prompt, str):
            return prompt + steps
        *earlier, last = prompt
        added = self.given.format(steps=steps.strip()) if steps.strip() else self.first
        return [*earlier, {**last, "content": f"{last['content']}{added}"}]


def split_steps(demonstration: tuple[str, ...]) -> tuple[str, ...]:
    """The steps of a demonstration; of a single text its paragraphs, which joined are the text."""
    if len(demonstration) != 1:
        return demonstration
    (text,) = demonstration
    ends = [match.end() for match in BLANK_LINES.finditer(text)]
    return tuple(text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True))


@dataclass(frozen=True)
class RewardSpread(Named):
    """Keep the rollouts of a problem with rewards that differ enough: a standard deviation above `least`."""

    least: float = 0.0
    needs: ClassVar[frozenset[str]] = frozenset({"reward", "own_group"})

    def __call__(self, group: Group) -> list[Sample]:
        rollouts = group.of("rollout")
        return rollouts if rollouts and pstdev(sample.reward for sample in rollouts) > self.least else []
