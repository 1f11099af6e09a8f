"""Further samples after verdicts: which rounds a problem gets, their hints and seeds, and one batch per round."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from scripted_sampler import ScriptedSampler
from tiny_models import save_tiny
from transformers import AutoTokenizer

from obverse.data.renderer import Renderer, hint_tokens
from obverse.estimator.cost import cost_of
from obverse.estimator.method import Method
from obverse.estimator.requests import max_samples_per_problem, wants
from obverse.inference.types import Completion, SamplingParams, SamplingRequest
from obverse.methods.bread import bread
from obverse.methods.trapo import trapo
from obverse.training.collector import Collector
from obverse.training.metrics import PhaseTimer, follow_up_metrics
from obverse.training.rollout_phase import add_follow_ups
from obverse.types import GenerationRequest, Group, Problem, Source

TEXT = "first a\n\nsecond bb\n\nthird ccc\n#### 4"
PROBLEMS = [
    Problem("shown", "2+2=?", answer="4", demonstration=(TEXT,), verifier="math"),
    Problem("plain", "3+1=?", answer="4", verifier="math"),
]


class Counting(ScriptedSampler):
    """A scripted sampler that counts the calls."""

    num_calls = 0

    def sample(
        self, requests: Sequence[SamplingRequest], params: SamplingParams, progress: Callable[[int], None] | None = None
    ) -> list[list[Completion]]:
        self.num_calls += 1
        return super().sample(requests, params, progress)


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    return Renderer(AutoTokenizer.from_pretrained(save_tiny("qwen2", tmp_path_factory.mktemp("follow") / "qwen2")))


def collected(
    renderer: Renderer, method: Method, min_hint: int, problems: Sequence[Problem] = PROBLEMS, first: int = 0
) -> tuple[list[Group], Counting]:
    """Groups of a sampler that is correct behind a hint of at least `min_hint` tokens, and the sampler."""
    right, wrong = (
        [*renderer.tokenizer(text, add_special_tokens=False).input_ids, renderer.stop_ids[0]]
        for text in ("\n#### 4", "\n#### 5")
    )
    prompts = [renderer.prompt(problem).token_ids for problem in PROBLEMS]

    def answer(ids: Sequence[int], seed: int) -> list[int]:
        length = max(len(prompt) for prompt in prompts if tuple(ids[: len(prompt)]) == prompt)
        return right if len(ids) - length >= min_hint else wrong

    sampler = Counting(answer)
    collector = Collector(sampler, renderer, SamplingParams(renderer.stop_ids, max_tokens=50), seed=1)
    offsets = range(first, first + len(problems))
    groups = collector.collect(problems, method, 0, 0.0, offsets)
    collector.grade(groups)
    add_follow_ups(collector, groups, method, 0, 0.0, offsets, PhaseTimer())
    return groups, sampler


def hint_lengths(group: Group) -> list[int]:
    return [sample.sources.count(Source.HINT) for sample in group.samples]


def fraction(renderer: Renderer, share: float, margin: float = 0.0) -> int:
    request = GenerationRequest(rollouts=1, hint=share, hint_in="tokens", hint_margin=margin)
    return len(hint_tokens(renderer.demonstration(PROBLEMS[0]), request))


def test_solved_problems_get_no_further_samples(renderer: Renderer) -> None:
    groups, sampler = collected(renderer, bread(num_generations=2), min_hint=0)
    assert [len(group.samples) for group in groups] == [2, 2] and sampler.num_calls == 1
    assert follow_up_metrics(groups) == {"follow_ups/samples": 2.0, "follow_ups/hinted": 0.0}


def test_a_longer_hint_until_a_sample_is_correct(renderer: Renderer) -> None:
    method, half = bread(num_generations=2), fraction(renderer, 0.5)
    groups, sampler = collected(renderer, method, min_hint=half)
    assert hint_lengths(groups[0]) == [0, 0, *[fraction(renderer, 0.25)] * 2, half, half]
    assert hint_lengths(groups[1]) == [0, 0]  # it has no demonstration
    assert sampler.num_calls == 3  # one per round, for all problems together
    assert method.select(groups[0]) == groups[0].samples[-2:] and method.select(groups[1]) == groups[1].samples
    assert follow_up_metrics(groups)["follow_ups/hinted"] == 0.5


def test_the_number_of_rounds_is_limited(renderer: Renderer) -> None:
    (group, _), sampler = collected(renderer, bread(num_generations=2, max_follow_ups=2), min_hint=1000)
    assert len(group.samples) == 6 and sampler.num_calls == 3


def test_seeds_differ_and_depend_on_the_position_alone(renderer: Renderer) -> None:
    _, together = collected(renderer, bread(num_generations=2), min_hint=1000)
    seeds = [seed for request in together.requests for seed in request.seeds]
    assert len(set(seeds)) == len(seeds) == 10
    _, alone = collected(renderer, bread(num_generations=2), 1000, PROBLEMS[1:], first=1)
    assert [request.seeds for request in alone.requests] == [together.requests[1].seeds]


@pytest.mark.parametrize(
    ("min_hint", "kinds"),
    [
        (0, ["rollout"] * 8),
        (1, ["rollout"] * 4 + ["hinted"] * 3 + ["demonstration"]),
        (1000, ["rollout"] * 4 + ["hinted"] * 3 + ["demonstration"]),
    ],
)
def test_trapo_follows_the_authors_thresholds(renderer: Renderer, min_hint: int, kinds: list[str]) -> None:
    (shown, plain), sampler = collected(renderer, trapo(), min_hint)
    assert [sample.kind for sample in shown.samples] == kinds
    assert [sample.kind for sample in plain.samples] == ["rollout"] * 8
    assert sampler.num_calls == 4
    if "hinted" in kinds:
        quarter, half = fraction(renderer, 0.25, 0.3), fraction(renderer, 0.5, 0.3)
        assert hint_lengths(shown)[4:7] == [quarter, quarter, half]
        assert len(trapo().select(shown)) == 8  # the demonstration is correct, the first samples are not
    assert trapo().select(plain) == []  # all correct, or all wrong


def test_a_hint_ends_at_the_first_blank_line_within_the_margin(renderer: Renderer) -> None:
    rendered = renderer.demonstration(PROBLEMS[0])
    first, second = rendered.blank_line_ends
    assert renderer.tokenizer.decode(rendered.ids[:first]).startswith("first a\n\n")
    start = 1 / len(rendered.ids)
    assert fraction(renderer, start + 1e-9) == 1
    assert fraction(renderer, start + 1e-9, margin=0.01) == 1  # the blank line is further away
    assert fraction(renderer, start + 1e-9, margin=0.9) == first
    assert fraction(renderer, (first + 1) / len(rendered.ids) + 1e-9, margin=0.9) == second


def test_what_is_requested_at_most_is_known_in_advance() -> None:
    assert max_samples_per_problem(trapo()) == 8 and max_samples_per_problem(bread(4, 3)) == 16
    assert wants(trapo(), "demonstrations") and wants(bread(), "demonstrations")
    assert cost_of(bread(4, 3)).backward == 4 and cost_of(bread(4, 3)).forward == 16 + 4
