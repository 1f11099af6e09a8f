"""Collecting: who is asked for what, hints, seeds and verdicts, with a sampler that follows a script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from scripted_sampler import ScriptedSampler
from tiny_models import save_tiny
from transformers import AutoTokenizer

from obverse.data.renderer import Renderer
from obverse.estimator.formula import Term
from obverse.estimator.method import Method
from obverse.estimator.parts import PerToken, Request
from obverse.inference import Completion, SamplingParams, SamplingRequest
from obverse.training.collector import Collector
from obverse.types import GenerationRequest, Group, Problem, Source

PROBLEMS = [
    Problem("a", "What is 2+2?", "4", ("2+2", "=4", "\n#### 4"), "math"),
    Problem("b", "What is 3+3?", "6", (), "math"),
]


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    return Renderer(AutoTokenizer.from_pretrained(save_tiny("qwen2", tmp_path_factory.mktemp("rollout") / "qwen2")))


def collector(renderer: Renderer, say: str = "#### 4", stop: bool = True) -> tuple[Collector, ScriptedSampler]:
    ids = renderer.tokenizer(say, add_special_tokens=False).input_ids + ([renderer.stop_ids[0]] if stop else [])
    sampler = ScriptedSampler(lambda prompt, seed: ids)
    return Collector(sampler, renderer, SamplingParams(renderer.stop_ids, max_tokens=50), seed=1), sampler


def collect(maker: Collector, ask: object, cursor: int = 0) -> list[Group]:
    method = Method(ask=ask, terms=())  # type: ignore[arg-type]
    groups = maker.collect(PROBLEMS, method, cursor, 0.0)
    maker.grade(groups)
    return groups


def test_demonstrations_and_rollouts_share_the_prompt_and_end_with_the_stop_token(renderer: Renderer) -> None:
    maker, _ = collector(renderer)
    groups = collect(maker, Request(rollouts=2, demonstrations=1))
    assert [sample.kind for sample in groups[0].samples] == ["demonstration", "rollout", "rollout"]
    assert [sample.kind for sample in groups[1].samples] == ["rollout", "rollout"]  # nobody demonstrated it
    shown, own, _ = groups[0].samples
    assert shown.prompt == own.prompt == renderer.prompt(PROBLEMS[0])
    assert shown.ids[-1] in renderer.stop_ids and own.ids[-1] in renderer.stop_ids
    assert set(shown.sources) == {Source.DEMONSTRATION} and set(own.sources) == {Source.ROLLOUT}
    assert own.text == "#### 4" and own.correct and shown.correct
    assert not groups[1].samples[0].correct


def test_the_ids_that_were_sampled_are_the_ids_that_are_trained(renderer: Renderer) -> None:
    # two single letters where the tokenizer would write one token: decoding and encoding again would lose that
    word = next(token for token in ("th", "he", "in", "er") if len(renderer.tokenizer(token).input_ids) == 1)
    ids = [renderer.tokenizer(letter).input_ids[0] for letter in word]
    sampler = ScriptedSampler(lambda prompt, seed: [*ids, renderer.stop_ids[0]])
    maker = Collector(sampler, renderer, SamplingParams(renderer.stop_ids, max_tokens=50), seed=1)
    sample = collect(maker, Request(rollouts=1))[0].samples[0]
    assert sample.ids[:-1] == ids != renderer.tokenizer(sample.text).input_ids
    assert sample.text == word


def test_a_cut_off_completion_gets_no_stop_token(renderer: Renderer) -> None:
    maker, _ = collector(renderer, say="1 2 3 4", stop=False)
    sample = collect(maker, Request(rollouts=1))[0].samples[0]
    assert sample.finish == "length"
    assert sample.ids[-1] not in renderer.stop_ids


def test_every_completion_has_its_own_seed_named_by_its_place(renderer: Renderer) -> None:
    def seeds(cursor: int) -> list[Sequence[int]]:
        maker, sampler = collector(renderer)
        collect(maker, Request(rollouts=3), cursor)
        return [request.seeds for request in sampler.requests]

    first = seeds(0)
    assert len({seed for row in first for seed in row}) == 6
    assert seeds(0) == first
    assert seeds(1)[0] == first[1]  # the place in the stream decides, not the place in the step


def test_two_wishes_for_one_problem_never_share_a_seed(renderer: Renderer) -> None:
    def ask(problem: Problem, progress: float) -> list[GenerationRequest]:
        return [GenerationRequest(rollouts=2), GenerationRequest(rollouts=2)]

    maker, sampler = collector(renderer)
    collect(maker, ask)
    seeds = [seed for request in sampler.requests for seed in request.seeds]
    assert len(seeds) == len(set(seeds)) == 8


def test_a_hint_shows_whole_steps_and_marks_their_tokens(renderer: Renderer) -> None:
    def ask(problem: Problem, progress: float) -> list[GenerationRequest]:
        return [GenerationRequest(rollouts=1, hint=0.67)]

    maker, sampler = collector(renderer)
    sample = collect(maker, ask)[0].samples[0]
    num_hint = sample.sources.count(Source.HINT)
    assert sample.kind == "hinted"
    assert renderer.tokenizer.decode(sample.ids[:num_hint]) == "2+2=4"
    assert sampler.requests[0].prompt == sample.prompt.extended(sample.ids[:num_hint])
    assert sample.behavior[:num_hint] == [0.0] * num_hint and set(sample.sources[num_hint:]) == {Source.ROLLOUT}


# Who writes, how much, and from where


def said(renderer: Renderer, *texts: str) -> list[list[int]]:
    return [[*renderer.tokenizer(text, add_special_tokens=False).input_ids, renderer.stop_ids[0]] for text in texts]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.99, 1.0])
def test_a_hint_in_tokens_is_rounded_down_and_leaves_one_to_write(renderer: Renderer, share: float) -> None:
    maker, sampler = collector(renderer)
    group = collect(maker, lambda problem, progress: [GenerationRequest(rollouts=1, hint=share, hint_in="tokens")])[0]
    whole = renderer.demonstration(PROBLEMS[0]).ids
    sample = group.samples[0]
    num_hint = sample.sources.count(Source.HINT)
    assert num_hint == min(math.floor(share * len(whole)), len(whole) - 1)
    assert sample.ids[:num_hint] == whole[:num_hint]
    assert sample.kind == ("hinted" if num_hint else "rollout")
    assert sampler.requests[0].prompt == sample.prompt.extended(whole[:num_hint])


def test_a_problem_without_a_demonstration_gets_no_hint(renderer: Renderer) -> None:
    maker, _ = collector(renderer)
    group = collect(maker, lambda problem, progress: [GenerationRequest(rollouts=1, hint=0.9, hint_in="tokens")])[1]
    assert group.samples[0].kind == "rollout" and Source.HINT not in group.samples[0].sources


def test_the_initial_model_writes_what_it_is_asked_for_and_nothing_else(renderer: Renderer) -> None:
    now, then = said(renderer, "now", "then")
    maker, _ = collector(renderer)
    both = replace(maker, sampler=ScriptedSampler(lambda *_: now), initial=ScriptedSampler(lambda *_: then))

    def ask(problem: Problem, progress: float) -> list[GenerationRequest]:
        return [GenerationRequest(rollouts=1), GenerationRequest(rollouts=2, author="initial")]

    for group in collect(both, ask):
        assert [sample.ids for sample in group.samples] == [now, then, then]
    with pytest.raises(ValueError, match="initial model"):
        collect(maker, ask)


def test_a_greedy_answer_is_one_sample_at_temperature_zero_beside_the_others(renderer: Renderer) -> None:
    laws: list[tuple[SamplingParams, int]] = []

    class Noting(ScriptedSampler):
        def sample(
            self, requests: Sequence[SamplingRequest], params: SamplingParams, progress: object = None
        ) -> list[list[Completion]]:
            laws.append((params, sum(len(request.seeds) for request in requests)))
            return super().sample(requests, params)

    maker, _ = collector(renderer)
    groups = collect(replace(maker, sampler=Noting(lambda *_: said(renderer, "#### 4")[0])), Request(3, greedy=1))
    assert [sample.kind for sample in groups[0].samples] == ["rollout"] * 3 + ["greedy"]
    assert [(params.temperature, num) for params, num in laws] == [(1.0, 6), (0.0, 2)]
    assert groups[0].greedy_reward == 1.0 and groups[1].greedy_reward == 0.0
    method = Method(ask=Request(), terms=(Term(Source.ROLLOUT, normalizer=PerToken()),))
    assert [sample.kind for sample in method.select(groups[0])] == ["rollout"] * 3


@pytest.mark.parametrize(("most", "length"), [(2, 2), (None, 5), (99, 5)])
def test_a_wish_may_be_shorter_than_the_runs_limit_and_never_longer(
    renderer: Renderer, most: int | None, length: int
) -> None:
    maker, _ = collector(renderer)
    maker = replace(maker, params=replace(maker.params, max_tokens=5), sampler=ScriptedSampler(lambda *_: [9] * 50))
    group = collect(maker, lambda problem, progress: [GenerationRequest(rollouts=1, max_tokens=most)])[0]
    assert len(group.samples[0].ids) == length and group.samples[0].finish == "length"


def test_pairs_are_rendered_as_answers_with_their_verdicts(renderer: Renderer) -> None:
    maker, _ = collector(renderer)
    paired = replace(PROBLEMS[0], chosen="four", rejected="five")
    method = Method(ask=Request(pairs=1), terms=())
    groups = maker.collect([paired, PROBLEMS[1], replace(paired, rejected=None)], method, 0, 0.0)
    maker.grade(groups)
    assert [len(group.samples) for group in groups] == [2, 0, 0]
    better, worse = groups[0].samples
    assert (better.kind, better.correct, worse.kind, worse.grade.correct) == ("chosen", True, "rejected", False)
    assert better.ids == renderer.response(paired, ("four",)).ids and set(worse.sources) == {Source.REJECTED}
    assert better.uniform == worse.uniform == paired.uniform


def test_a_problems_draw_is_its_own_and_the_same_in_every_run() -> None:
    draws = [Problem(f"p{n}", "x").uniform for n in range(2000)]
    assert draws == [Problem(f"p{n}", "another prompt").uniform for n in range(2000)]
    assert draws[0] == 0.8119437474859795, "another number would change runs that are under way"
    assert 0 <= min(draws) < 0.01 and 0.99 < max(draws) < 1 and abs(sum(draws) / 2000 - 0.5) < 0.03
