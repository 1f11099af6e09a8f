"""How large the largest piece of each phase's work is: rows, widths and lengths, from the options alone."""

from __future__ import annotations

from dataclasses import dataclass

from obverse.config.train import TrainConfig
from obverse.estimator.method import Method
from obverse.estimator.requests import generation_requests
from obverse.types import Source


@dataclass(frozen=True)
class Lengths:
    """The longest prompt, the longest text that others wrote, and the longest completion, in tokens."""

    prompt: int
    shown: int
    completion: int


@dataclass(frozen=True)
class Asked:
    """What a method asks for one problem: own samples, samples that others wrote, tokens of a hint before the own."""

    own: int
    written: int
    hint: int
    completion: int

    @staticmethod
    def of(method: Method, lengths: Lengths) -> Asked:
        """The most that it asks for at any time of a run."""
        wanted = list(generation_requests(method))
        times = max(1, len(wanted) // 11)  # wishes of one time; they are listed for eleven
        longest = [
            min(request.max_tokens or lengths.completion, lengths.completion) for request in wanted if request.rollouts
        ]
        return Asked(
            own=max((request.rollouts + request.greedy for request in wanted), default=0) * times,
            written=max((request.demonstrations + 2 * request.pairs for request in wanted), default=0) * times,
            hint=lengths.shown if any(request.hint for request in wanted) else 0,
            completion=max(longest, default=0),
        )


@dataclass(frozen=True)
class Training:
    """The largest micro batch of an update: [num_rows, width]; with shared prompts these are responses only."""

    num_rows: int
    width: int
    num_scored: int  # trained tokens of a row
    num_micros: int
    num_prompts: int = 0  # shared ones that are read together; 0: none is shared
    prompt: int = 0

    @property
    def num_tokens(self) -> int:
        """Padded tokens that are in the model with a graph at once."""
        return self.num_rows * self.width + self.num_prompts * self.prompt


@dataclass(frozen=True)
class Writing:
    """The fullest moment of sampling: `num_rows` completions of `length` tokens, prompts included."""

    num_rows: int
    num_prompts: int  # read together
    prompt: int
    length: int


def training(config: TrainConfig, method: Method, lengths: Lengths, device: str, shares: bool, ranks: int) -> Training:
    """The largest micro batch that `method` makes. A sample longer than the budget is a micro batch of its own."""
    asked = Asked.of(method, lengths)
    trains_own = bool(method.sources & {Source.ROLLOUT, Source.HINT}) and asked.own > 0
    response = max(asked.hint + asked.completion if trains_own else 0, lengths.shown if asked.written else 0, 2)
    longest = lengths.prompt + response
    rows = max(1, (asked.own if trains_own else 0) + asked.written)
    problems = -(-config.prompts_per_step // (config.num_mini_batches * ranks))
    budget, piece = config.tokens_at_once(device), rows if method.needs_whole_groups else 1
    tokens = max(piece * longest, min(budget, problems * rows * longest))
    num_rows = max(piece, -(-tokens // longest))
    fill = tokens / (num_rows * longest)  # rows of unequal lengths fill the budget; the longest alone may not
    scored, num_micros = max(1, round(fill * response) - 1), -(-problems * rows * longest // tokens)
    if shares and rows > 1 and method.inputs is None and not method.streams & {"value", "score"}:
        together = max(1, min(problems, budget // max(1, lengths.prompt)))
        return Training(num_rows, scored, scored, num_micros, together, lengths.prompt)
    return Training(num_rows, max(1, round(fill * longest) - 1), scored, num_micros)


def writing(config: TrainConfig, methods: tuple[Method, ...], lengths: Lengths, ranks: int) -> Writing | None:
    """The most completions decoded side by side, evaluation included; None where nothing is sampled here."""
    asked = [Asked.of(method, lengths) for method in methods]
    problems = -(-config.prompts_per_step // ranks)
    completion = max(each.completion for each in asked)
    requests = [(problems * each.own, each.own) for each in asked if each.own]
    if config.eval_dataset is not None:
        number = -(-config.num_eval_problems // ranks)
        requests.append((number * config.num_generations_eval, config.num_generations_eval))
        completion = max(completion, lengths.completion)
    if not requests or config.sampler == "vllm":
        return None
    rows, each = max((min(total, config.rollout_batch_size), group) for total, group in requests)
    prompt = lengths.prompt + max(each.hint for each in asked)
    return Writing(rows, -(-rows // each), prompt, prompt + completion)
