"""Checks that the texts of a run or an evaluation fit the positions of its models, before it starts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from obverse.config.train import TrainConfig
from obverse.data.renderer import Renderer, hint_tokens
from obverse.distributed.fsdp import fsdp_forward
from obverse.errors import ConfigError
from obverse.estimator.requests import generation_requests
from obverse.estimator.schedule import TrainingSchedule
from obverse.models.position_limits import can_read, num_positions, rated_positions
from obverse.models.reward_model import RewardModel
from obverse.models.rope_frequencies import frequency_switches, longest_sampled
from obverse.runtime.callbacks import Watcher
from obverse.types import GenerationRequest, Problem

SAMPLED = "a completion"
ONE_ROLLOUT = frozenset({GenerationRequest(rollouts=1)})
DEMONSTRATION_TOO = ONE_ROLLOUT | {GenerationRequest(demonstrations=1)}
MARGIN = 1_024  # bytes that a template may add to an untokenized prompt, beyond those it adds to the first one


@dataclass(frozen=True)
class TextLength:
    """The length in tokens of a prompt with its longest continuation."""

    problem: str  # its id
    num_prompt: int
    num_tokens: int  # of prompt and continuation
    continuation: str  # its kind, for messages

    @property
    def is_sampled(self) -> bool:
        return self.continuation == SAMPLED


TextsLongerThan = Callable[[int], Iterable[TextLength]]  # the texts with more than a number of tokens


@dataclass(frozen=True)
class Remedies:
    """What a message suggests for a text that is too long."""

    sampled: str  # if a completion is too long
    other: str

    def of(self, text: TextLength) -> str:
        return self.sampled if text.is_sampled else self.other


def check_run(
    config: TrainConfig,
    schedule: TrainingSchedule,
    problems: Sequence[Problem],
    held_out: Sequence[Problem],
    renderer: Renderer,
    models: Mapping[str, Any],
    scorer: RewardModel | None,
    watcher: Watcher,
) -> None:
    """Raise ConfigError for texts of a run that one of its `models` (by their names in messages) cannot read.

    A reward model reads prompts and completions in its own tokens; a completion is assumed to have no more of them.
    """
    requests = {request for method in schedule.methods for request in generation_requests(method)}
    held_out_requests = ONE_ROLLOUT if schedule.plateau is None else DEMONSTRATION_TOO
    max_tokens = config.max_completion_length
    num_unread = 0 if any("score" in method.streams for method in schedule.methods) else 1

    def texts(above: int) -> Iterable[TextLength]:
        yield from too_long(problems, renderer, requests, max_tokens, above)
        yield from too_long(held_out, renderer, held_out_requests, max_tokens, above)

    def scored(above: int) -> Iterable[TextLength]:
        return too_long(problems, scorer.renderer if scorer else renderer, ONE_ROLLOUT, max_tokens, above)

    drop_prompts = "or leave long prompts out by --max_prompt_length"
    remedies = Remedies(
        f"lower --max_completion_length (now {max_tokens}), {drop_prompts}",
        f"shorten or drop such rows, {drop_prompts}",
    )
    _refuse_frequencies(texts, models, remedies, cached=config.sampler == "hf")
    check(texts, models, watcher, num_unread, remedies)
    if scorer is not None:
        check(scored, {"the reward model": scorer.model}, watcher, 0, remedies)


def check_completions(
    problems: Sequence[Problem], renderer: Renderer, max_tokens: int, model: Any, watcher: Watcher
) -> None:
    """Raise ConfigError for problems whose completions of up to `max_tokens` tokens exceed a model's positions."""

    def texts(above: int) -> Iterable[TextLength]:
        return too_long(problems, renderer, ONE_ROLLOUT, max_tokens, above)

    remedies = Remedies(f"lower --max_completion_length (now {max_tokens}), or shorten the prompts", "shorten them")
    _refuse_frequencies(texts, {"the model": model}, remedies, cached=True)
    check(texts, {"the model": model}, watcher, 1, remedies)


def _refuse_frequencies(texts: TextsLongerThan, models: Mapping[str, Any], remedies: Remedies, cached: bool) -> None:
    """Raise ConfigError for a text so long that its rotary frequencies would differ from those of a plain forward pass.

    These are texts beyond the positions of dynamic RoPE, whose frequencies depend on earlier forward passes, and with
    `cached` completions that grow beyond the switch of LongRoPE: cached keys keep the frequencies of short rows.
    """
    for name, model in models.items():
        limit, longest = frequency_switches(model.config)[1], longest_sampled(model.config) if cached else None
        for bound, sampled in ((limit, False), (longest, True)):
            if bound is None:
                continue
            affected = [text for text in texts(bound) if text.is_sampled or not sampled]
            if affected:
                longest_text = max(affected, key=lambda text: text.num_tokens)
                raise ConfigError(
                    f"{name} changes its rotary frequencies beyond {bound:,} tokens for a whole row, "
                    f"{'unlike cached keys' if sampled else 'depending on earlier inputs'}, and that of problem "
                    f"{longest_text.problem} may have {longest_text.num_tokens:,} with {longest_text.continuation}: "
                    f"{remedies.of(longest_text)}"
                )


def check(
    texts: TextsLongerThan, models: Mapping[str, Any], watcher: Watcher, num_unread: int, remedies: Remedies
) -> None:
    """Raise ConfigError if a text is longer than a model's position embedding table, or than a model can read.

    The last `num_unread` tokens of a text are not read. If a model can read texts beyond its declared length (rotary
    positions), this is one note.
    """
    for name, model in models.items():
        _check(texts, name, model, watcher, num_unread, remedies)


def _check(
    texts: TextsLongerThan, name: str, model: Any, watcher: Watcher, num_unread: int, remedies: Remedies
) -> None:
    """Run `check` for one model."""
    limit: int | None = fsdp_forward(model, lambda: num_positions(model))
    rated = rated_positions(model)
    bound = limit if limit is not None else rated
    if bound is None:
        return
    exceeding = list(texts(bound + num_unread))
    if not exceeding:
        return
    longest = max(exceeding, key=lambda text: text.num_tokens)
    length = longest.num_tokens - num_unread
    if fsdp_forward(model, lambda: can_read(model, length, limit)):
        watcher.note(
            f"{name} was made for {bound:,} positions and reads up to {length:,} (problem {longest.problem}): it can, "
            "but its predictions there may be worse"
        )
        return
    raise ConfigError(
        f"{name} has {bound:,} positions, and {len({text.problem for text in exceeding})} problems need more: that of "
        f"{longest.problem} has {longest.num_prompt:,} tokens and {longest.num_tokens - longest.num_prompt:,} more in "
        f"{longest.continuation}: {remedies.of(longest)}"
    )


def too_long(
    problems: Sequence[Problem],
    renderer: Renderer,
    requests: Collection[GenerationRequest],
    max_tokens: int,
    above: int,
) -> Iterable[TextLength]:
    """The longest text of each problem under any of the requests, for problems where it exceeds `above` tokens.

    A text with at most `above` bytes is not tokenized: each token has at least one byte.
    """
    if not problems:
        return
    frame = len(renderer.prompt_text(problems[0]).encode("utf-8", "replace")) + MARGIN
    for problem in problems:
        fields = (str(problem.prompt), problem.demonstration_text, problem.chosen or "", problem.rejected or "")
        if sum(len(text.encode("utf-8", "replace")) for text in fields) + 2 * frame + max_tokens <= above:
            continue
        num_prompt = len(renderer.prompt(problem))
        num_more, kind = max(continuations(problem, renderer, requests, max_tokens), default=(0, "nothing"))
        if num_prompt + num_more > above:
            yield TextLength(problem.id, num_prompt, num_prompt + num_more, kind)


def continuations(
    problem: Problem, renderer: Renderer, requests: Collection[GenerationRequest], max_tokens: int
) -> Iterable[tuple[int, str]]:
    """The length in tokens and the kind of each text that may follow a problem's prompt."""
    demonstration = renderer.demonstration(problem) if problem.demonstration else None
    for request in requests:
        if request.rollouts or request.greedy:
            yield len(hint_tokens(demonstration, request)) + min(request.max_tokens or max_tokens, max_tokens), SAMPLED
        if request.demonstrations and demonstration is not None:
            yield len(demonstration.ids), "its demonstration"
        if request.pairs and problem.chosen is not None and problem.rejected is not None:
            for text in (problem.chosen, problem.rejected):
                yield len(renderer.response(problem, (text,)).ids), "its chosen or rejected answer"
