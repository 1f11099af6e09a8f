"""Wishes become samples, samples get verdicts: a problem's group is made here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from obverse.method import Method
from obverse.records import Group, Problem, Sample, Source, Verdict, Wish
from obverse.sampling import Completion, Law, Order, Sampler
from obverse.seeds import seed_for
from obverse.text import Rendered, Renderer
from obverse.verifiers import NOT_APPLICABLE, judge
from obverse.watch import Silent, Watcher


@dataclass(frozen=True)
class Draft:
    """Own samples that a wish asks for: the prompt (with a hint's tokens behind it) and how many continuations."""

    problem: int
    prompt_ids: list[int]
    hint_ids: list[int]
    num_rollouts: int


@dataclass(frozen=True)
class Collector:
    """Everything that turns problems into groups."""

    sampler: Sampler
    renderer: Renderer
    law: Law
    seed: int
    watcher: Watcher = field(default_factory=Silent)

    def collect(self, problems: Sequence[Problem], method: Method, cursor: int, progress: float) -> list[Group]:
        """One group per problem, in order: demonstrations first, then rollouts; nothing is judged yet.

        `cursor` is the place of the first problem in the run's stream of problems: it names the completions' seeds.
        """
        groups, drafts = [Group(problem, []) for problem in problems], []
        for index, problem in enumerate(problems):
            for wish in method.ask(problem, progress):
                rendered = self.renderer.demonstration(problem) if problem.demonstration else None
                groups[index].samples += self._demonstrations(problem, rendered, wish)
                if wish.rollouts:
                    prompt_ids, hint_ids = self.renderer.prompt_ids(problem), hint(rendered, wish)
                    drafts.append(Draft(index, prompt_ids, hint_ids, wish.rollouts))
        self._roll_out(groups, drafts, cursor)
        return groups

    def _demonstrations(self, problem: Problem, rendered: Rendered | None, wish: Wish) -> list[Sample]:
        if not wish.demonstrations or rendered is None:
            return []
        return [
            Sample(
                kind="demonstration",
                prompt_ids=self.renderer.prompt_ids(problem),
                ids=rendered.ids,
                sources=[Source.DEMONSTRATION] * len(rendered.ids),
                behavior=[0.0] * len(rendered.ids),
                text=rendered.text,
            )
        ]

    def _roll_out(self, groups: list[Group], drafts: list[Draft], cursor: int) -> None:
        """Sample every draft in one call; a completion's seed names its run, place in the stream and number."""
        numbers = [0] * len(groups)
        orders = []
        for draft in drafts:
            first = numbers[draft.problem]
            numbers[draft.problem] += draft.num_rollouts
            place = cursor + draft.problem
            seeds = [seed_for(self.seed, "rollout", place, first + i) for i in range(draft.num_rollouts)]
            orders.append(Order(draft.prompt_ids + draft.hint_ids, seeds))
        total = sum(draft.num_rollouts for draft in drafts)
        self.watcher.phase("sample", 0, total)

        def report(done: int) -> None:
            self.watcher.phase("sample", done, total)

        for draft, completions in zip(drafts, self.sampler.sample(orders, self.law, report), strict=True):
            groups[draft.problem].samples += [self._own(draft, completion) for completion in completions]

    def _own(self, draft: Draft, completion: Completion) -> Sample:
        """A rollout as a sample: the ids that were sampled are the ids that will be trained."""
        num_hint = len(draft.hint_ids)
        ids = draft.hint_ids + completion.ids
        return Sample(
            kind="hinted" if num_hint else "rollout",
            prompt_ids=draft.prompt_ids,
            ids=ids,
            sources=[Source.HINT] * num_hint + [Source.ROLLOUT] * len(completion.ids),
            behavior=[0.0] * num_hint + completion.behavior,
            text=self.renderer.decode(ids),
            finish=completion.finish,
        )

    def judge(self, groups: list[Group]) -> None:
        """Give every sample its verdict.

        Where there is no verifier, or it does not apply, what somebody demonstrated counts as right.
        """
        for index, group in enumerate(groups):
            for sample in group.samples:
                verdict = judge(group.problem, sample.text) or NOT_APPLICABLE
                trusted = sample.kind == "demonstration" and verdict == NOT_APPLICABLE
                sample.verdict = Verdict.right() if trusted else verdict
            self.watcher.phase("grade", index + 1, len(groups))


def hint(rendered: Rendered | None, wish: Wish) -> list[int]:
    """The tokens of the first steps of the demonstration: a share `wish.hint` of its steps, rounded to the nearest."""
    if rendered is None or not wish.hint:
        return []
    num_steps = round(wish.hint * len(rendered.step_ends))
    return rendered.ids[: rendered.step_ends[num_steps - 1]] if num_steps else []
