"""Samples of problems, graded: in memory, or stored as they come and reused where they are there already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from obverse.config.eval import EvalConfig
from obverse.data.renderer import Renderer
from obverse.distributed.balance import deal
from obverse.distributed.process_group import ProcessGroup
from obverse.errors import ConfigError
from obverse.evaluation.metrics import majority
from obverse.evaluation.report import Score
from obverse.evaluation.sample_store import Graded, Store, digest, sample_row
from obverse.inference import Sampler, SamplingParams, SamplingRequest
from obverse.rewards import extract_answer, grade_completions
from obverse.rewards.versions import grader_version
from obverse.runtime.callbacks import Silent, Watcher
from obverse.runtime.signals import run_on_all_ranks
from obverse.seeds import seed_for
from obverse.types import ModelInput, Problem

CHUNK_SAMPLES = 4096  # sampled, graded and written at a time, at most
CHUNK_TOKENS = 2**22  # and about so many tokens, so that a kill costs little of a long evaluation


Seeds = dict[int, tuple[int, int]]  # seed of a sample -> (the evaluation's seed, the sample's number)


@dataclass(frozen=True)
class Asked:
    """A problem as the model is asked it, and how many samples of which evaluation seeds are wanted."""

    problem: Problem
    prompt: ModelInput
    digest: str
    num_samples: int
    rounds: Sequence[int]

    @classmethod
    def of(cls, problem: Problem, renderer: Renderer, num_samples: int, rounds: Sequence[int]) -> Asked:
        prompt = renderer.prompt(problem)
        return cls(problem, prompt, digest(problem, prompt), num_samples, rounds)

    @cached_property
    def grader(self) -> str:
        """The version of what gives verdicts on it."""
        return grader_version(self.problem)

    @property
    def size(self) -> int:
        """Samples in all."""
        return self.num_samples * len(self.rounds)

    def seeds(self) -> Seeds:
        """The seed of every sample: it names the problem and the number, not the place."""
        numbers = range(self.num_samples)
        return {seed_for(each, "eval", self.problem.id, i): (each, i) for each in self.rounds for i in numbers}


def collect(
    everything: Sequence[Asked],
    config: EvalConfig,
    sampler: Sampler,
    renderer: Renderer,
    params: SamplingParams,
    store: Store,
    watch: Watcher,
) -> Iterator[Score]:
    """A score per problem and seed. Problems are sampled in chunks; of a chunk that is written only scores are kept."""
    stored = store.stored()
    total, done = sum(asked.size for asked in everything), 0
    for chunk in chunks(everything, max(config.batch_size, CHUNK_TOKENS // params.max_tokens)):
        seeds, have = [asked.seeds() for asked in chunk], [stored.pop(asked.digest, {}) for asked in chunk]
        missing = [
            {seed: place for seed, place in mine.items() if seed not in known}
            for mine, known in zip(seeds, have, strict=True)
        ]
        size = sum(asked.size for asked in chunk)
        base = done + size - sum(map(len, missing))

        def progress(num: int, base: int = base) -> None:
            watch.phase("eval", base + num, total)

        progress(0)
        try:
            fresh = sample(chunk, missing, sampler, renderer, params, progress)
        except KeyboardInterrupt:
            watch.note(f"stopped: {done:,} of {total:,} samples are in {store.folder}; the same command goes on there")
            raise
        rows = [
            sample_row(asked.problem, asked.digest, places[graded.seed][0], graded, text, asked.grader)
            for asked, places, mine in zip(chunk, missing, fresh, strict=True)
            for graded, text in mine
        ]
        if rows:
            store.append(rows)
        done += size
        for asked, places, known, mine in zip(chunk, seeds, have, fresh, strict=True):
            known |= {graded.seed: graded for graded, _ in mine}
            for number in asked.rounds:
                samples = [known[seed] for seed, (owner, _) in places.items() if owner == number]
                yield score_of(asked.problem, samples, config.reached_k, number)
    watch.phase("eval", total, total)


def chunks(everything: Sequence[Asked], size: int) -> Iterator[list[Asked]]:
    """Whole problems, with about `size` samples together and at most CHUNK_SAMPLES, but at least one problem."""
    chunk: list[Asked] = []
    num = 0
    for asked in everything:
        if chunk and num + asked.size > min(CHUNK_SAMPLES, size):
            yield chunk
            chunk, num = [], 0
        chunk.append(asked)
        num += asked.size
    yield chunk


def sample(
    chunk: Sequence[Asked],
    wanted: Sequence[Seeds],
    sampler: Sampler,
    renderer: Renderer,
    params: SamplingParams,
    progress: Callable[[int], None],
) -> list[list[tuple[Graded, str]]]:
    """The wanted completions by problem, each with its verdict and text. Raises ConfigError without a verifier."""
    requests = [SamplingRequest(asked.prompt, list(seeds)) for asked, seeds in zip(chunk, wanted, strict=True)]
    found = sampler.sample(requests, params, progress)
    texts = [[renderer.decode(completion.ids) for completion in completions] for completions in found]
    grades = iter(grade_completions([(a.problem, text) for a, said in zip(chunk, texts, strict=True) for text in said]))
    graded: list[list[tuple[Graded, str]]] = []
    for asked, seeds, completions, said in zip(chunk, wanted, found, texts, strict=True):
        graded.append([])
        for (seed, (_, number)), completion, text in zip(seeds.items(), completions, said, strict=True):
            grade = next(grades)
            if grade is None:
                name = asked.problem.id
                raise ConfigError(f"problem {name!r} has no answer to check: add `answer` or give --verifier")
            answer = extract_answer(asked.problem, text)
            each = Graded.of(seed, number, completion.finish, len(completion.ids), grade, answer)
            graded[-1].append((each, text))
    return graded


def score_of(problem: Problem, samples: Sequence[Graded], ks: Sequence[int] = (), round_seed: int = 0) -> Score:
    """What the samples of one problem amount to; maj@k for `ks`."""
    correct = [bool(each.correct) for each in samples]
    shared = [k for k in ks if k > 1]
    return Score(
        problem=problem.id,
        difficulty=str(problem.meta.get("difficulty", problem.meta.get("level", ""))),
        num_samples=len(samples),
        num_correct=sum(correct),
        num_truncated=sum(each.finish == "length" for each in samples),
        num_formatted=sum(each.formatted for each in samples),
        num_ungraded=sum(each.correct is None for each in samples),
        correct=correct,
        reasons=dict(Counter(kind_of(each.reason) for each in samples if each.correct is None)),
        majority=majority(problem, [each.answer for each in samples], correct, shared) if shared else {},
        num_tokens=sum(each.num_tokens for each in samples),
        round=round_seed,
    )


def kind_of(reason: str) -> str:
    """What a verdict's reason begins with, up to a colon: `timeout: 1.0 s` is counted as `timeout`."""
    return reason.partition(":")[0] or "no reason given"


def measure(
    problems: Sequence[Problem],
    sampler: Sampler,
    renderer: Renderer,
    params: SamplingParams,
    num_samples: int,
    seed: int,
    watcher: Watcher | None = None,
) -> list[Score]:
    """Sample every problem `num_samples` times and grade, in memory; a completion's seed names problem and number only.

    Raises ConfigError for a problem that names no verifier.
    """
    watch = watcher or Silent()
    total = len(problems) * num_samples
    chunk = [Asked.of(problem, renderer, num_samples, [seed]) for problem in problems]
    watch.phase("eval", 0, total)
    seeds = [asked.seeds() for asked in chunk]
    found = sample(chunk, seeds, sampler, renderer, params, lambda done: watch.phase("eval", done, total))
    return [
        replace(score_of(problem, [graded for graded, _ in mine]), texts=[text for _, text in mine])
        for problem, mine in zip(problems, found, strict=True)
    ]


def measure_shared(
    process_group: ProcessGroup,
    problems: Sequence[Problem],
    sampler: Sampler,
    renderer: Renderer,
    params: SamplingParams,
    num_samples: int,
    seed: int,
    watcher: Watcher,
) -> list[Score]:
    """As `measure`, with the problems dealt out to the ranks; all of them get all scores, in the problems' order."""
    shares = deal([1] * len(problems), process_group.size)
    own = [problems[index] for index in shares[process_group.rank]]
    scores = run_on_all_ranks(
        process_group, lambda: measure(own, sampler, renderer, params, num_samples, seed, watcher)
    )
    if process_group.is_alone:
        return scores
    told = process_group.gather([asdict(score) for score in scores])
    places = [place for share in shares for place in share]
    found = dict(zip(places, [Score(**row) for rows in told for row in rows], strict=True))
    return [found[place] for place in range(len(problems))]
