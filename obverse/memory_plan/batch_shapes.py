"""Shapes of the largest micro batch and of the largest decoding batch, from the options alone."""

from __future__ import annotations

from dataclasses import dataclass

from obverse.config.train import TrainConfig
from obverse.estimator.method import Method
from obverse.estimator.requests import request_lists
from obverse.estimator.teacher import Teacher
from obverse.types import GenerationRequest, Source

FEEDBACK, TEMPLATE = 128, 64  # tokens assumed of a verifier's reason, and of the text around a teacher's context


@dataclass(frozen=True)
class Lengths:
    """The longest prompt, the longest response in the data, and the longest completion, in tokens."""

    prompt: int
    response: int
    completion: int


@dataclass(frozen=True)
class SamplesPerProblem:
    """What a method requests per problem: sampled completions, responses of the data, and tokens of a hint."""

    sampled: int
    response: int
    hint: int
    completion: int

    @staticmethod
    def of(method: Method, lengths: Lengths) -> SamplesPerProblem:
        """The largest request of a method over a run."""
        lists = list(request_lists(method))
        requests = [request for problem_requests in lists for request in problem_requests]
        longest = [
            min(request.max_tokens or lengths.completion, lengths.completion)
            for request in requests
            if request.rollouts
        ]
        return SamplesPerProblem(
            sampled=max(sum(request.rollouts + request.greedy for request in row) for row in lists),
            response=max(sum(map(num_given, row)) for row in lists),
            hint=lengths.response if any(request.hint for request in requests) else 0,
            completion=max(longest, default=0),
        )


def num_given(request: GenerationRequest) -> int:
    """The most responses of the data that a request has."""
    return request.demonstrations + 2 * max(request.pairs, request.labeled)


@dataclass(frozen=True)
class TrainingShape:
    """The largest micro batch of an update: [num_rows, width]; with shared prompts these are responses only."""

    num_rows: int
    width: int
    num_scored: int  # trained tokens of a row
    num_micros: int
    num_prompts: int = 0  # shared prompts in one forward pass; 0 without shared prompts
    prompt: int = 0
    teacher_prompt: int = 0  # tokens of the longest prompt that the teacher of a divergence reads

    @property
    def num_tokens(self) -> int:
        """Padded tokens in one forward pass with a graph."""
        return self.num_rows * self.width + self.num_prompts * self.prompt


@dataclass(frozen=True)
class DecodingShape:
    """The largest decoding batch: `num_rows` rows of `length` tokens, prompts included."""

    num_rows: int
    num_prompts: int  # prefilled together
    prompt: int
    length: int


def training(
    config: TrainConfig, method: Method, lengths: Lengths, device: str, shares: bool, ranks: int
) -> TrainingShape:
    """The largest micro batch of `method`. A sample longer than the budget is a micro batch of its own."""
    samples = SamplesPerProblem.of(method, lengths)
    trains_rollouts = bool(method.sources & {Source.ROLLOUT, Source.HINT}) and samples.sampled > 0
    response = max(
        samples.hint + samples.completion if trains_rollouts else 0, lengths.response if samples.response else 0, 2
    )
    longest = lengths.prompt + response
    rows = max(1, (samples.sampled if trains_rollouts else 0) + samples.response)
    problems = -(-config.prompts_per_step // (config.num_mini_batches * ranks))
    budget, piece = config.tokens_at_once(device), rows if method.needs_whole_groups else 1
    tokens = max(piece * longest, min(budget, problems * rows * longest))
    num_rows = max(piece, -(-tokens // longest))
    fill = tokens / (num_rows * longest)  # rows of unequal lengths fill the budget; equal ones may not
    scored, num_micros = max(1, round(fill * response) - 1), -(-problems * rows * longest // tokens)
    read = 0
    if method.teacher is not None and method.compares_with("teacher"):
        read = teacher_prompt(config, method.teacher, lengths)
    if shares and rows > 1 and method.inputs is None and not method.streams & {"value", "score"}:
        together = max(1, min(problems, budget // max(1, lengths.prompt)))
        return TrainingShape(num_rows, scored, scored, num_micros, together, lengths.prompt, read)
    read = 0 if read == lengths.prompt else read  # it reads the micro batch itself
    return TrainingShape(num_rows, max(1, round(fill * longest) - 1), scored, num_micros, teacher_prompt=read)


def teacher_prompt(config: TrainConfig, teacher: Teacher, lengths: Lengths) -> int:
    """Tokens of the longest prompt that a teacher reads."""
    context = {"prompt": 0, "demonstration": lengths.response, "sibling": lengths.completion, "feedback": FEEDBACK}
    added = max(context[kind] + (0 if kind == "prompt" else TEMPLATE) for kind in teacher.contexts)
    return max(lengths.prompt, min(lengths.prompt + added, config.max_teacher_prompt_length or lengths.prompt + added))


def scoring_shape(
    config: TrainConfig, method: Method, lengths: Lengths, device: str, shares: bool
) -> TrainingShape | None:
    """The largest micro batch that the teacher of `method` scores; None where it scores nothing."""
    if method.teacher is None or not method.needs("teacher"):
        return None
    prompt = teacher_prompt(config, method.teacher, lengths)
    samples, budget = SamplesPerProblem.of(method, lengths), config.tokens_at_once(device)
    response = max(samples.hint + samples.completion, lengths.response if samples.response else 0, 2)
    num_rows = max(1, budget // (prompt + response))
    if shares:
        return TrainingShape(num_rows, response - 1, response - 1, 1, max(1, budget // prompt), prompt)
    return TrainingShape(num_rows, prompt + response - 1, response - 1, 1)


def decoding_shape(
    config: TrainConfig, methods: tuple[Method, ...], lengths: Lengths, ranks: int
) -> DecodingShape | None:
    """The largest decoding batch, evaluation included; None where this process does not sample."""
    per_problem = [SamplesPerProblem.of(method, lengths) for method in methods]
    problems = -(-config.prompts_per_step // ranks)
    completion = max(samples.completion for samples in per_problem)
    requests = [(problems * samples.sampled, samples.sampled) for samples in per_problem if samples.sampled]
    if config.eval_dataset is not None:
        number = -(-config.num_eval_problems // ranks)
        requests.append((number * config.num_generations_eval, config.num_generations_eval))
        completion = max(completion, lengths.completion)
    if not requests or config.sampler == "vllm":
        return None
    rows, group_size = max((min(total, config.rollout_batch_size), group) for total, group in requests)
    prompt = lengths.prompt + max(samples.hint for samples in per_problem)
    return DecodingShape(rows, -(-rows // group_size), prompt, prompt + completion)
