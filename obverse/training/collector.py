"""Turn problems into groups: render given responses, sample completions, and grade all of them."""

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
    """Scores rollouts in place of a verifier, as a reward model does."""

    def score(self, samples: Sequence[tuple[Problem, Sample]]) -> list[float]: ...


@dataclass(frozen=True)
class Draft:
    """Completions to sample for a GenerationRequest: the prompt with the hint behind it, and their number."""

    problem: int
    prompt: ModelInput
    hint_ids: list[int]
    num_rollouts: int
    request: GenerationRequest
    greedy: bool = False


@dataclass(frozen=True)
class Collector:
    """Samples and grades the groups of problems.

    `initial` samples from the model that the run began with, for methods that request it.
    """

    sampler: Sampler
    renderer: Renderer
    params: SamplingParams
    seed: int
    watcher: Watcher = field(default_factory=Silent)
    initial: Sampler | None = None
    scorer: Scorer | None = None
    format_reward: float = 0.0  # of a wrong answer in the place where the verifier expects it
    verifier_seconds: float = SECONDS  # time limit of a user's function for one completion

    def costs(self, problems: Sequence[Problem], method: Method, progress: float) -> list[int]:
        """An estimate of the tokens of each problem: its prompt once, every completion at full length.

        Of several alternatives for further samples the longest counts, because verdicts are not known yet.
        """

        def sampled(requests: Sequence[GenerationRequest]) -> int:
            lengths = [
                min(request.max_tokens or self.params.max_tokens, self.params.max_tokens) for request in requests
            ]
            return sum(
                (request.rollouts + request.greedy) * length for request, length in zip(requests, lengths, strict=True)
            )

        costs = []
        for problem in problems:
            further = [[]] if method.follow_up is None else method.follow_up.alternatives(problem)
            num_tokens = sampled(method.ask(problem, progress)) + max(map(sampled, further))
            costs.append(len(self.renderer.prompt(problem)) + num_tokens)
        return costs

    @property
    def models(self) -> list[Any]:
        """The models of this process that sample or score."""
        components = (self.sampler, self.initial, self.scorer)
        return [model for component in components if (model := getattr(component, "model", None)) is not None]

    def collect(
        self,
        problems: Sequence[Problem],
        method: Method,
        cursor: int,
        progress: float,
        offsets: Sequence[int] | None = None,
    ) -> list[Group]:
        """One group per problem, in order: demonstrations, then pairs, then completions; nothing is graded yet.

        The seeds of a problem's completions follow from its position in the training stream: `cursor` plus its entry in
        `offsets` (None: 0, 1, 2, ...).
        """
        groups, drafts = self._drafts(problems, [method.ask(problem, progress) for problem in problems])
        offsets = range(len(problems)) if offsets is None else offsets
        self._sample(groups, drafts, [cursor + offset for offset in offsets])
        return groups

    def follow_up(
        self,
        groups: Sequence[Group],
        method: Method,
        cursor: int,
        progress: float,
        offsets: Sequence[int],
        round_number: int,
    ) -> list[Group]:
        """The further samples that a method requests of graded `groups` in a round, as ungraded groups of their own.

        A group without requests stays empty. Seeds continue those of the problem's completions so far. All problems of
        the round are sampled together.
        """
        if method.follow_up is None:
            raise ValueError("the method has no follow_up")
        requests = [
            method.follow_up(method.visible_group(group, method.follow_up), progress, round_number) for group in groups
        ]
        added, drafts = self._drafts([group.problem for group in groups], requests)
        numbers = [len(group.of(*POLICY_KINDS)) for group in groups]
        if drafts:
            self._sample(added, drafts, [cursor + offset for offset in offsets], numbers)
        return added

    def demonstrations(self, problems: Sequence[Problem]) -> list[Sample]:
        """The demonstration of each problem as a sample; not graded."""
        request = GenerationRequest(demonstrations=1)
        return [
            sample
            for problem in problems
            for sample in self._given_responses(problem, self.renderer.demonstration(problem), request)
        ]

    def sampling_requests(
        self,
        problems: Sequence[Problem],
        method: Method,
        cursor: int,
        progress: float,
        offsets: Sequence[int],
    ) -> list[tuple[list[SamplingRequest], SamplingParams]]:
        """The requests that `collect` would send to the policy's sampler, call by call."""
        _, drafts = self._drafts(problems, [method.ask(problem, progress) for problem in problems])
        calls = self._calls(drafts, [cursor + offset for offset in offsets])
        return [
            ([request for _, request in members], params) for author, params, members in calls if author == "policy"
        ]

    def _drafts(
        self, problems: Sequence[Problem], requests: Sequence[Sequence[GenerationRequest]]
    ) -> tuple[list[Group], list[Draft]]:
        """Groups with the responses given by the data, and the completions to sample; requests are per problem."""
        groups, drafts = [Group(problem, []) for problem in problems], []
        for index, problem in enumerate(problems):
            for request in requests[index]:
                rendered = self.renderer.demonstration(problem) if problem.demonstration else None
                groups[index].samples += self._given_responses(problem, rendered, request)
                prompt, hint_ids = self.renderer.prompt(problem), hint_tokens(rendered, request)
                if request.rollouts:
                    drafts.append(Draft(index, prompt, hint_ids, request.rollouts, request))
                if request.greedy:
                    drafts.append(Draft(index, prompt, [], 1, request, greedy=True))
        return groups, drafts

    def _given_responses(
        self, problem: Problem, rendered: RenderedResponse | None, request: GenerationRequest
    ) -> list[Sample]:
        """The responses that the data give for a problem: its demonstration, its chosen and its rejected response."""
        responses: list[tuple[Kind, RenderedResponse]] = []
        if request.demonstrations and rendered is not None:
            responses.append(("demonstration", rendered))
        is_pair = problem.chosen is not None and problem.rejected is not None
        if request.labeled or (request.pairs and is_pair):
            given: list[tuple[Kind, str | None]] = [("chosen", problem.chosen), ("rejected", problem.rejected)]
            responses += [
                (kind, self.renderer.response(problem, (text,), kind)) for kind, text in given if text is not None
            ]
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
            for kind, text in responses
        ]

    def _calls(
        self, drafts: list[Draft], positions: Sequence[int], numbers: Sequence[int] | None = None
    ) -> list[tuple[str, SamplingParams, list[tuple[Draft, SamplingRequest]]]]:
        """Drafts grouped by author and sampling parameters, one call of a sampler each; mostly all are in one call.

        A completion's seed follows from the run's seed, its problem's position in the stream and its number, which
        counts from the problem's entry in `numbers` (None: 0).
        """
        numbers = [0] * len(positions) if numbers is None else [*numbers]
        calls: dict[tuple[str, bool, int], list[tuple[Draft, SamplingRequest]]] = {}
        for draft in drafts:
            first = numbers[draft.problem]
            numbers[draft.problem] += draft.num_rollouts
            position = positions[draft.problem]
            seeds = [seed_for(self.seed, "rollout", position, first + i) for i in range(draft.num_rollouts)]
            max_tokens = min(draft.request.max_tokens or self.params.max_tokens, self.params.max_tokens)
            request = SamplingRequest(draft.prompt.extended(draft.hint_ids), seeds)
            calls.setdefault((draft.request.author, draft.greedy, max_tokens), []).append((draft, request))
        return [
            (
                author,
                replace(self.params, max_tokens=max_tokens, temperature=0.0 if greedy else self.params.temperature),
                members,
            )
            for (author, greedy, max_tokens), members in calls.items()
        ]

    def _sample(
        self,
        groups: list[Group],
        drafts: list[Draft],
        positions: Sequence[int],
        numbers: Sequence[int] | None = None,
    ) -> None:
        """Sample every draft; `numbers` are the numbers of completions that each problem has already (None: 0)."""
        total, done = sum(draft.num_rollouts for draft in drafts), 0
        self.watcher.phase("sample", 0, total)
        for author, params, members in self._calls(drafts, positions, numbers):

            def report(num: int, before: int = done) -> None:
                self.watcher.phase("sample", before + num, total)

            sampled = self._author(author).sample([request for _, request in members], params, report)
            for (draft, _), completions in zip(members, sampled, strict=True):
                problem = groups[draft.problem].problem
                groups[draft.problem].samples += [
                    self._rollout(draft, completion, problem) for completion in completions
                ]
            done += sum(draft.num_rollouts for draft, _ in members)

    def _author(self, author: str) -> Sampler:
        if author == "policy":
            return self.sampler
        if self.initial is None:
            raise ValueError("this method samples from the initial model, and the run has not loaded it")
        return self.initial

    def _rollout(self, draft: Draft, completion: Completion, problem: Problem) -> Sample:
        """A completion as a sample: the sampled token ids are the ones that are trained."""
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
            uniform=problem.uniform,
        )

    def grade(self, groups: list[Group], grades_rollouts: bool = True) -> None:
        """Grade every sample in place; a demonstration without a verifier counts as correct.

        A reward model scores completions in place of the verifier. Without `grades_rollouts` they are not graded.
        """
        for index, group in enumerate(groups):
            self._grade(group, grades_rollouts)
            self.watcher.phase("grade", index + 1, len(groups))
        if grades_rollouts and self.scorer is not None:
            rollouts = [(group.problem, sample) for group in groups for sample in group.of(*POLICY_KINDS)]
            for (_, sample), score in zip(rollouts, self.scorer.score(rollouts), strict=True):
                sample.grade = GradeResult(score > 0, score) if math.isfinite(score) else NO_SCORE

    def _grade(self, group: Group, grades_rollouts: bool) -> None:
        """Grade the samples of one problem; verifiers in worker processes grade several at once."""
        ungraded = []
        for sample in group.samples:
            if sample.kind in ("chosen", "rejected"):
                sample.grade = (
                    GradeResult.passed() if sample.kind == "chosen" else GradeResult.failed("rejected by its data")
                )
            elif sample.kind in POLICY_KINDS and (self.scorer is not None or not grades_rollouts):
                sample.grade = NOT_APPLICABLE  # until it is scored
            else:
                ungraded.append(sample)
        texts = [(group.problem, sample.text) for sample in ungraded]
        for sample, grade in zip(ungraded, grade_completions(texts, self.verifier_seconds), strict=True):
            sample.grade = self._adjusted(sample, grade or NOT_APPLICABLE)

    def _adjusted(self, sample: Sample, grade: GradeResult) -> GradeResult:
        """The grade with the defaults of demonstrations and the reward of wrong answers in the expected format."""
        if sample.kind == "demonstration" and grade == NOT_APPLICABLE:
            return GradeResult.passed()
        if sample.kind in POLICY_KINDS and grade.correct is False and grade.formatted and self.format_reward:
            return replace(grade, reward=self.format_reward)
        return grade
