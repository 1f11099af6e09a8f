"""Collecting: who is asked for what, hints, seeds and verdicts, with a sampler that follows a script."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tiny_models import save_tiny
from transformers import AutoTokenizer

from obverse.method import Method
from obverse.parts import Request
from obverse.records import Group, Problem, Source, Wish
from obverse.rollout import Collector
from obverse.sampling import Law
from obverse.sampling.scripted import ScriptedSampler
from obverse.text import Renderer

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
    return Collector(sampler, renderer, Law(renderer.stop_ids, max_tokens=50), seed=1), sampler


def collect(maker: Collector, ask: object, cursor: int = 0) -> list[Group]:
    method = Method(ask=ask, terms=())  # type: ignore[arg-type]
    groups = maker.collect(PROBLEMS, method, cursor, 0.0)
    maker.judge(groups)
    return groups


def test_demonstrations_and_rollouts_share_the_prompt_and_end_with_the_stop_token(renderer: Renderer) -> None:
    maker, _ = collector(renderer)
    groups = collect(maker, Request(rollouts=2, demonstrations=1))
    assert [sample.kind for sample in groups[0].samples] == ["demonstration", "rollout", "rollout"]
    assert [sample.kind for sample in groups[1].samples] == ["rollout", "rollout"]  # nobody demonstrated it
    shown, own, _ = groups[0].samples
    assert shown.prompt_ids == own.prompt_ids == renderer.prompt_ids(PROBLEMS[0])
    assert shown.ids[-1] in renderer.stop_ids and own.ids[-1] in renderer.stop_ids
    assert set(shown.sources) == {Source.DEMONSTRATION} and set(own.sources) == {Source.ROLLOUT}
    assert own.text == "#### 4" and own.correct and shown.correct
    assert not groups[1].samples[0].correct


def test_the_ids_that_were_sampled_are_the_ids_that_are_trained(renderer: Renderer) -> None:
    # two single letters where the tokenizer would write one token: decoding and encoding again would lose that
    word = next(token for token in ("th", "he", "in", "er") if len(renderer.tokenizer(token).input_ids) == 1)
    ids = [renderer.tokenizer(letter).input_ids[0] for letter in word]
    sampler = ScriptedSampler(lambda prompt, seed: [*ids, renderer.stop_ids[0]])
    maker = Collector(sampler, renderer, Law(renderer.stop_ids, max_tokens=50), seed=1)
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
        return [order.seeds for order in sampler.orders]

    first = seeds(0)
    assert len({seed for row in first for seed in row}) == 6
    assert seeds(0) == first
    assert seeds(1)[0] == first[1]  # the place in the stream decides, not the place in the step


def test_two_wishes_for_one_problem_never_share_a_seed(renderer: Renderer) -> None:
    def ask(problem: Problem, progress: float) -> list[Wish]:
        return [Wish(rollouts=2), Wish(rollouts=2)]

    maker, sampler = collector(renderer)
    collect(maker, ask)
    seeds = [seed for order in sampler.orders for seed in order.seeds]
    assert len(seeds) == len(set(seeds)) == 8


def test_a_hint_shows_whole_steps_and_marks_their_tokens(renderer: Renderer) -> None:
    def ask(problem: Problem, progress: float) -> list[Wish]:
        return [Wish(rollouts=1, hint=0.67)]

    maker, sampler = collector(renderer)
    sample = collect(maker, ask)[0].samples[0]
    num_hint = sample.sources.count(Source.HINT)
    assert sample.kind == "hinted"
    assert renderer.tokenizer.decode(sample.ids[:num_hint]) == "2+2=4"
    assert list(sampler.orders[0].prompt_ids) == sample.prompt_ids + sample.ids[:num_hint]
    assert sample.behavior[:num_hint] == [0.0] * num_hint and set(sample.sources[num_hint:]) == {Source.ROLLOUT}
