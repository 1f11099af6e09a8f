"""Wishes become samples, samples get verdicts: a problem's group is made here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from obverse.data.renderer import RenderedResponse, Renderer, hint_tokens
from obverse.estimator.method import Method
from obverse.inference import Completion, Sampler, SamplingParams, SamplingRequest
from obverse.rewards import NOT_APPLICABLE, SECONDS, grade_completions
from obverse.runtime.callbacks import Silent, Watcher
from obverse.seeds import seed_for
from obverse.types import POLICY_KINDS, GenerationRequest, GradeResult, Group, Kind, ModelInput, Problem, Sample, Source

NO_SCORE = GradeResult(None, 0.0, "the reward model's score is not finite")


class Scorer(Protocol):
    """Gives own samples a number in place of a verdict."""

    def score(self, samples: Sequence[tuple[Problem, Sample]]) -> list[float]: ...


@dataclass(frozen=True)
class Draft:
    """Own samples that a wish asks for: the prompt (a hint's tokens behind it), how many continuations, by whom."""

    problem: int
    prompt: ModelInput
    hint_ids: list[int]
    num_rollouts: int
    request: GenerationRequest
    greedy: bool = False


@dataclass(frozen=True)
class Collector:
    """Everything that turns problems into groups.

    `initial` samples from the model that the run began with, for methods that ask for it.
    """

    sampler: Sampler
    renderer: Renderer
    params: SamplingParams
    seed: int
    watcher: Watcher = field(default_factory=Silent)
    initial: Sampler | None = None
    scorer: Scorer | None = None
    format_reward: float = 0.0  # of a wrong answer that was found where the verifier looks for one
    verifier_seconds: float = SECONDS  # for a user's function and one completion

    def costs(self, problems: Sequence[Problem], method: Method, progress: float) -> list[int]:
        """About how many tokens it takes to sample each problem: its prompt once, every completion at full length."""
        costs = []
        for problem in problems:
            requests = method.ask(problem, progress)
            lengths = [
                min(request.max_tokens or self.params.max_tokens, self.params.max_tokens) for request in requests
            ]
            sampled = sum((w.rollouts + w.greedy) * most for w, most in zip(requests, lengths, strict=True))
            costs.append(len(self.renderer.prompt(problem)) + sampled)
        return costs

    @property
    def models(self) -> list[Any]:
        """The models of this process that sample or score."""
        makers = (self.sampler, self.initial, self.scorer)
        return [model for maker in makers if (model := getattr(maker, "model", None)) is not None]

    def collect(
        self,
        problems: Sequence[Problem],
        method: Method,
        cursor: int,
        progress: float,
        places: Sequence[int] | None = None,
    ) -> list[Group]:
        """One group per problem, in order: demonstrations, then pairs, then own samples; nothing is judged yet.

        `cursor` is the place of the first problem in the run's stream of problems: it names the completions' seeds.
        `places` are those of all of them behind the first one, where they do not follow each other.
        """
        groups, drafts = self._drafts(problems, method, progress)
        places = range(len(problems)) if places is None else places
        self._roll_out(groups, drafts, [cursor + place for place in places])
        return groups

    def sampling_requests(
        self,
        problems: Sequence[Problem],
        method: Method,
        cursor: int,
        progress: float,
        places: Sequence[int],
    ) -> list[tuple[list[SamplingRequest], SamplingParams]]:
        """What `collect` would ask of the policy's sampler, call by call."""
        _, drafts = self._drafts(problems, method, progress)
        calls = self._calls(drafts, [cursor + place for place in places])
        return [
            ([request for _, request in members], params) for author, params, members in calls if author == "policy"
        ]

    def _drafts(self, problems: Sequence[Problem], method: Method, progress: float) -> tuple[list[Group], list[Draft]]:
        """Groups with what others wrote, and what is to be sampled for them."""
        groups, drafts = [Group(problem, []) for problem in problems], []
        for index, problem in enumerate(problems):
            for request in method.ask(problem, progress):
                rendered = self.renderer.demonstration(problem) if problem.demonstration else None
                groups[index].samples += self._written(problem, rendered, request)
                prompt, hint_ids = self.renderer.prompt(problem), hint_tokens(rendered, request)
                if request.rollouts:
                    drafts.append(Draft(index, prompt, hint_ids, request.rollouts, request))
                if request.greedy:
                    drafts.append(Draft(index, prompt, [], 1, request, greedy=True))
        return groups, drafts

    def _written(self, problem: Problem, rendered: RenderedResponse | None, request: GenerationRequest) -> list[Sample]:
        """What others wrote for a problem: its demonstration, its chosen and its rejected response."""
        found: list[tuple[Kind, RenderedResponse]] = []
        if request.demonstrations and rendered is not None:
            found.append(("demonstration", rendered))
        if request.pairs and problem.chosen is not None and problem.rejected is not None:
            found.append(("chosen", self.renderer.response(problem, (problem.chosen,), "chosen")))
            found.append(("rejected", self.renderer.response(problem, (problem.rejected,), "rejected")))
        return [
            Sample(
                kind=kind,
                prompt=self.renderer.prompt(problem),
                ids=text.ids,
                sources=[Source[kind.upper()]] * len(text.ids),
                behavior=[0.0] * len(text.ids),
                text=text.text,
                uniform=problem.uniform,
            )
            for kind, text in found
        ]

    def _calls(
        self, drafts: list[Draft], places: Sequence[int]
    ) -> list[tuple[str, SamplingParams, list[tuple[Draft, SamplingRequest]]]]:
        """The drafts that are sampled alike, mostly all of them, in one call: by whom, under which law.

        A completion's seed names its run, place in the stream and number.
        """
        numbers = [0] * len(places)
        alike: dict[tuple[str, bool, int], list[tuple[Draft, SamplingRequest]]] = {}
        for draft in drafts:
            first = numbers[draft.problem]
            numbers[draft.problem] += draft.num_rollouts
            place = places[draft.problem]
            seeds = [seed_for(self.seed, "rollout", place, first + i) for i in range(draft.num_rollouts)]
            most = min(draft.request.max_tokens or self.params.max_tokens, self.params.max_tokens)
            request = SamplingRequest(draft.prompt.extended(draft.hint_ids), seeds)
            alike.setdefault((draft.request.author, draft.greedy, most), []).append((draft, request))
        return [
            (
                author,
                replace(self.params, max_tokens=most, temperature=0.0 if greedy else self.params.temperature),
                members,
            )
            for (author, greedy, most), members in alike.items()
        ]

    def _roll_out(self, groups: list[Group], drafts: list[Draft], places: Sequence[int]) -> None:
        """Sample every draft."""
        total, done = sum(draft.num_rollouts for draft in drafts), 0
        self.watcher.phase("sample", 0, total)
        for author, params, members in self._calls(drafts, places):

            def report(num: int, before: int = done) -> None:
                self.watcher.phase("sample", before + num, total)

            found = self._author(author).sample([request for _, request in members], params, report)
            for (draft, _), completions in zip(members, found, strict=True):
                groups[draft.problem].samples += [self._own(draft, each, groups) for each in completions]
            done += sum(draft.num_rollouts for draft, _ in members)

    def _author(self, author: str) -> Sampler:
        if author == "policy":
            return self.sampler
        if self.initial is None:
            raise ValueError("this method samples from the initial model, and the run did not keep one")
        return self.initial

    def _own(self, draft: Draft, completion: Completion, groups: list[Group]) -> Sample:
        """A rollout as a sample: the ids that were sampled are the ids that will be trained."""
        num_hint = len(draft.hint_ids)
        ids = draft.hint_ids + completion.ids
        return Sample(
            kind="greedy" if draft.greedy else "hinted" if num_hint else "rollout",
            prompt=draft.prompt,
            ids=ids,
            sources=[Source.HINT] * num_hint + [Source.ROLLOUT] * len(completion.ids),
            behavior=[0.0] * num_hint + completion.behavior,
            text=self.renderer.decode(ids),
            finish=completion.finish,
            weights=completion.weights,
            uniform=groups[draft.problem].problem.uniform,
        )

    def grade(self, groups: list[Group], grades_rollouts: bool = True) -> None:
        """Give every sample its verdict; what somebody wrote counts as right where no verifier says otherwise.

        A reward model's scores stand in place of verdicts on own samples; those get none at all without `own`.
        """
        for index, group in enumerate(groups):
            self._grade(group, grades_rollouts)
            self.watcher.phase("grade", index + 1, len(groups))
        if grades_rollouts and self.scorer is not None:
            mine = [(group.problem, sample) for group in groups for sample in group.of(*POLICY_KINDS)]
            for (_, sample), score in zip(mine, self.scorer.score(mine), strict=True):
                sample.grade = GradeResult(score > 0, score) if math.isfinite(score) else NO_SCORE

    def _grade(self, group: Group, grades_rollouts: bool) -> None:
        """Verdicts for one problem's samples; several at once where they need worker processes."""
        asked = []
        for sample in group.samples:
            if sample.kind in ("chosen", "rejected"):
                sample.grade = (
                    GradeResult.passed() if sample.kind == "chosen" else GradeResult.failed("rejected by its data")
                )
            elif sample.kind in POLICY_KINDS and (self.scorer is not None or not grades_rollouts):
                sample.grade = NOT_APPLICABLE  # until it is scored
            else:
                asked.append(sample)
        found = grade_completions([(group.problem, sample.text) for sample in asked], self.verifier_seconds)
        for sample, grade in zip(asked, found, strict=True):
            sample.grade = self._verdict(sample, grade or NOT_APPLICABLE)

    def _verdict(self, sample: Sample, grade: GradeResult) -> GradeResult:
        if sample.kind == "demonstration" and grade == NOT_APPLICABLE:
            return GradeResult.passed()
        if sample.kind in POLICY_KINDS and grade.correct is False and grade.formatted and self.format_reward:
            return replace(grade, reward=self.format_reward)
        return grade
