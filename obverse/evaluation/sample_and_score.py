"""Sampling and grading of problems: in memory (`measure`), or stored on disk and reused (`collect`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from obverse.data.renderer import Renderer
from obverse.distributed.balance import balanced_shares
from obverse.distributed.process_group import ProcessGroup
from obverse.errors import ConfigError
from obverse.evaluation.metrics import majority
from obverse.evaluation.report import Score
from obverse.evaluation.sample_store import GradedSample, SampleStore, digest, sample_row
from obverse.inference import Sampler, SamplingParams, SamplingRequest
from obverse.rewards import extract_answer, grade_completions
from obverse.rewards.versions import grader_version
from obverse.runtime.callbacks import Silent, Watcher
from obverse.runtime.signals import run_on_all_ranks
from obverse.seeds import seed_for
from obverse.types import ModelInput, Problem

CHUNK_SAMPLES = 4096  # largest number of samples that are drawn, graded and written at a time
CHUNK_TOKENS = 2**22  # approximate number of tokens, so that a kill loses little of a long evaluation


Seeds = dict[int, tuple[int, int]]  # seed of a sample -> (evaluation seed, number of the sample)


@dataclass(frozen=True)
class EvalSetup:
    """How problems are sampled: the sampler, the renderer of prompts, and the sampling parameters.

    Attributes:
        num_samples: Completions per problem and evaluation seed.
        seed: The evaluation seed; the first one if there are several.
        num_seeds: Number of evaluation seeds.
    """

    sampler: Sampler
    renderer: Renderer
    params: SamplingParams
    num_samples: int
    seed: int = 0
    num_seeds: int = 1

    @property
    def seeds(self) -> range:
        """The evaluation seeds."""
        return range(self.seed, self.seed + self.num_seeds)


@dataclass(frozen=True)
class EvalItem:
    """A problem with its prompt, and the samples to draw for it."""

    problem: Problem
    prompt: ModelInput
    digest: str
    num_samples: int  # per evaluation seed
    eval_seeds: Sequence[int]

    @classmethod
    def of(cls, problem: Problem, setup: EvalSetup) -> EvalItem:
        prompt = setup.renderer.prompt(problem)
        return cls(problem, prompt, digest(problem, prompt), setup.num_samples, setup.seeds)

    @cached_property
    def grader(self) -> str:
        """The version of the verifier that grades the problem."""
        return grader_version(self.problem)

    @property
    def num_completions(self) -> int:
        """The number of samples over all evaluation seeds."""
        return self.num_samples * len(self.eval_seeds)

    def seeds(self) -> Seeds:
        """Return the seed of every sample; it depends on the problem's id and the sample's number only."""
        numbers = range(self.num_samples)
        return {
            seed_for(eval_seed, "eval", self.problem.id, number): (eval_seed, number)
            for eval_seed in self.eval_seeds
            for number in numbers
        }


def collect(
    items: Sequence[EvalItem],
    setup: EvalSetup,
    store: SampleStore,
    ks: Sequence[int],
    batch_size: int,
    watch: Watcher,
) -> Iterator[Score]:
    """Yield a score per problem and evaluation seed; draw, grade and store the samples that `store` does not have.

    Args:
        items: The problems.
        setup: How they are sampled.
        store: The samples on disk.
        ks: The k of maj@k.
        batch_size: Smallest number of samples of a chunk that is drawn and stored at a time.
        watch: Receives the progress.

    Raises ConfigError for a problem without a verifier.
    """
    stored = store.stored()
    total, done = sum(item.num_completions for item in items), 0
    for chunk in chunks(items, max(batch_size, CHUNK_TOKENS // setup.params.max_tokens)):
        seeds, stored_samples = [item.seeds() for item in chunk], [stored.pop(item.digest, {}) for item in chunk]
        missing = [
            {seed: origin for seed, origin in item_seeds.items() if seed not in samples}
            for item_seeds, samples in zip(seeds, stored_samples, strict=True)
        ]
        size = sum(item.num_completions for item in chunk)
        num_before = done + size - sum(map(len, missing))

        def progress(num: int, num_before: int = num_before) -> None:
            watch.phase("eval", num_before + num, total)

        progress(0)
        try:
            new_samples = sample(chunk, missing, setup, progress)
        except KeyboardInterrupt:
            watch.note(f"stopped: {done:,} of {total:,} samples are in {store.folder}; repeat the command to continue")
            raise
        rows = [
            sample_row(item.problem, item.digest, item_seeds[graded.seed][0], graded, text, item.grader)
            for item, item_seeds, samples in zip(chunk, missing, new_samples, strict=True)
            for graded, text in samples
        ]
        if rows:
            store.append(rows)
        done += size
        for item, item_seeds, samples, new in zip(chunk, seeds, stored_samples, new_samples, strict=True):
            samples |= {graded.seed: graded for graded, _ in new}
            for eval_seed in item.eval_seeds:
                of_seed = [samples[seed] for seed, (origin, _) in item_seeds.items() if origin == eval_seed]
                yield score_of(item.problem, of_seed, ks, eval_seed)
    watch.phase("eval", total, total)


def chunks(items: Sequence[EvalItem], size: int) -> Iterator[list[EvalItem]]:
    """Yield whole problems with about `size` samples run_on_all_ranks: at most CHUNK_SAMPLES, at least one problem."""
    chunk: list[EvalItem] = []
    num_samples = 0
    for item in items:
        if chunk and num_samples + item.num_completions > min(CHUNK_SAMPLES, size):
            yield chunk
            chunk, num_samples = [], 0
        chunk.append(item)
        num_samples += item.num_completions
    yield chunk


def sample(
    chunk: Sequence[EvalItem], seeds: Sequence[Seeds], setup: EvalSetup, progress: Callable[[int], None]
) -> list[list[tuple[GradedSample, str]]]:
    """Draw one completion per seed and problem; return them graded, with their text, in the order of `seeds`.

    Raises ConfigError for a problem without a verifier.
    """
    requests = [SamplingRequest(item.prompt, list(item_seeds)) for item, item_seeds in zip(chunk, seeds, strict=True)]
    completions = setup.sampler.sample(requests, setup.params, progress)
    texts = [[setup.renderer.decode(completion.ids) for completion in per_problem] for per_problem in completions]
    pairs = [(item.problem, text) for item, item_texts in zip(chunk, texts, strict=True) for text in item_texts]
    grades = iter(grade_completions(pairs))
    graded: list[list[tuple[GradedSample, str]]] = []
    for item, item_seeds, per_problem, item_texts in zip(chunk, seeds, completions, texts, strict=True):
        graded.append([])
        for (seed, (_, number)), completion, text in zip(item_seeds.items(), per_problem, item_texts, strict=True):
            grade = next(grades)
            if grade is None:
                name = item.problem.id
                raise ConfigError(f"problem {name!r} has no answer to check: add `answer` or give --verifier")
            answer = extract_answer(item.problem, text)
            result = GradedSample.of(seed, number, completion.finish, len(completion.ids), grade, answer)
            graded[-1].append((result, text))
    return graded


def score_of(problem: Problem, samples: Sequence[GradedSample], ks: Sequence[int] = (), round_seed: int = 0) -> Score:
    """Return the score of a problem's samples of one evaluation seed, with maj@k for the `ks` above 1."""
    correct = [bool(graded.correct) for graded in samples]
    majority_ks = [k for k in ks if k > 1]
    answers = [graded.answer for graded in samples]
    return Score(
        problem=problem.id,
        difficulty=str(problem.meta.get("difficulty", problem.meta.get("level", ""))),
        num_samples=len(samples),
        num_correct=sum(correct),
        num_truncated=sum(graded.finish == "length" for graded in samples),
        num_formatted=sum(graded.formatted for graded in samples),
        num_ungraded=sum(graded.correct is None for graded in samples),
        correct=correct,
        reasons=dict(Counter(reason_code(graded.reason) for graded in samples if graded.correct is None)),
        majority=majority(problem, answers, correct, majority_ks) if majority_ks else {},
        num_tokens=sum(graded.num_tokens for graded in samples),
        round=round_seed,
    )


def reason_code(reason: str) -> str:
    """Return the part of a grade's reason before a colon: `timeout: 1.0 s` is counted as `timeout`."""
    return reason.partition(":")[0] or "no reason given"


def measure(
    problems: Sequence[Problem],
    setup: EvalSetup,
    watcher: Watcher | None = None,
    process_group: ProcessGroup | None = None,
) -> list[Score]:
    """Sample every problem `setup.num_samples` times, grade in memory, and return the scores in the problems' order.

    With a process group, its ranks share the problems and every rank returns all scores. The seed of a completion
    depends on the problem's id and the sample's number only. Raises ConfigError for a problem without a verifier.
    """
    watch = watcher or Silent()
    if process_group is None:
        return _measure(problems, setup, watch)
    shares = balanced_shares([1] * len(problems), process_group.size)
    rank_problems = [problems[index] for index in shares[process_group.rank]]
    rank_scores = run_on_all_ranks(process_group, lambda: _measure(rank_problems, setup, watch))
    if process_group.is_alone:
        return rank_scores
    gathered = process_group.gather([asdict(score) for score in rank_scores])
    indices = [index for share in shares for index in share]
    scores = dict(zip(indices, [Score(**row) for rows in gathered for row in rows], strict=True))
    return [scores[index] for index in range(len(problems))]


def _measure(problems: Sequence[Problem], setup: EvalSetup, watch: Watcher) -> list[Score]:
    items = [EvalItem.of(problem, setup) for problem in problems]
    total = sum(item.num_completions for item in items)
    watch.phase("eval", 0, total)
    seeds = [item.seeds() for item in items]
    samples = sample(items, seeds, setup, lambda done: watch.phase("eval", done, total))
    return [
        replace(score_of(problem, [graded for graded, _ in graded_texts]), texts=[text for _, text in graded_texts])
        for problem, graded_texts in zip(problems, samples, strict=True)
    ]
