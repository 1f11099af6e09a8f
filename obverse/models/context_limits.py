"""Whether the texts of a run or an evaluation fit the positions of its models; what does not is refused beforehand."""

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
MARGIN = 1_024  # tokens that a template may add to a text which is not made tokens of, over what it adds to the first


@dataclass(frozen=True)
class Text:
    """A text that a model is to read: which problem's, of how many tokens, and what stands behind the prompt."""

    problem: str
    num_prompt: int
    num_tokens: int
    behind: str

    @property
    def is_sampled(self) -> bool:
        return self.behind == SAMPLED


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
    """Refuse the texts of a run that one of its `models` (by their names in messages) cannot read; see `check`.

    A reward model reads prompts and completions in its own tokens, of which a completion is taken to have no more.
    """
    asked, most = (
        {request for method in schedule.methods for request in generation_requests(method)},
        config.max_completion_length,
    )
    spare = 0 if any("score" in method.streams for method in schedule.methods) else 1

    def texts(above: int) -> Iterable[Text]:
        yield from too_long(problems, renderer, asked, most, above)
        yield from too_long(held_out, renderer, {GenerationRequest(rollouts=1)}, most, above)

    def scored(above: int) -> Iterable[Text]:
        return too_long(problems, scorer.renderer if scorer else renderer, {GenerationRequest(rollouts=1)}, most, above)

    leave = "or leave long prompts out by --max_prompt_length"
    mends = (f"lower --max_completion_length (now {most}), {leave}", f"shorten or drop such rows, {leave}")
    _refuse_frequencies(texts, models, mends, cached=config.sampler == "hf")
    check(texts, models, watcher, spare, mends)
    if scorer is not None:
        check(scored, {"the reward model": scorer.model}, watcher, 0, mends)


def check_asked(problems: Sequence[Problem], renderer: Renderer, max_tokens: int, model: Any, watcher: Watcher) -> None:
    """Refuse problems whose completions of at most `max_tokens` a model cannot write; see `check`."""

    def texts(above: int) -> Iterable[Text]:
        return too_long(problems, renderer, {GenerationRequest(rollouts=1)}, max_tokens, above)

    mends = (f"lower --max_completion_length (now {max_tokens}), or shorten the prompts", "shorten them")
    _refuse_frequencies(texts, {"the model": model}, mends, cached=True)
    check(texts, {"the model": model}, watcher, 1, mends)


def _refuse_frequencies(
    texts: Callable[[int], Iterable[Text]], models: Mapping[str, Any], mends: Sequence[str], cached: bool
) -> None:
    """Raise ConfigError for a text so long that its rotary frequencies cannot be those of a plain forward.

    Those are every text beyond the positions of dynamic RoPE, whose frequencies depend on what was read before, and
    with `cached` samples that grow beyond the switch of LongRoPE: keys in a cache keep the frequencies of short rows.
    """
    for name, model in models.items():
        limit, longest = frequency_switches(model.config)[1], longest_sampled(model.config) if cached else None
        for bound, sampled in ((limit, False), (longest, True)):
            if bound is None:
                continue
            found = [each for each in texts(bound) if each.is_sampled or not sampled]
            if found:
                worst = max(found, key=lambda each: each.num_tokens)
                raise ConfigError(
                    f"{name} changes its rotary frequencies beyond {bound:,} tokens for a whole row, "
                    f"{'which a cache cannot follow' if sampled else 'by what it read before'}, and that of problem "
                    f"{worst.problem} may have {worst.num_tokens:,} with {worst.behind}: "
                    f"{mends[0] if worst.is_sampled else mends[1]}"
                )


def check(
    texts: Callable[[int], Iterable[Text]],
    models: Mapping[str, Any],
    watcher: Watcher,
    spare: int,
    mends: Sequence[str],
) -> None:
    """Raise ConfigError where a text is longer than a model's table of positions, or than it can read at all.

    `texts` gives those of more than so many tokens. The last `spare` tokens are not read. `mends` are what to do where
    a completion is too long, and where another text is. A text that a model can read,
    though it was not made for it (rotary positions), is one note.
    """
    for name, model in models.items():
        _check(texts, name, model, watcher, spare, mends)


def _check(
    texts: Callable[[int], Iterable[Text]], name: str, model: Any, watcher: Watcher, spare: int, mends: Sequence[str]
) -> None:
    """`check` for one model."""
    limit: int | None = fsdp_forward(model, lambda: num_positions(model))
    rated = rated_positions(model)
    bound = limit if limit is not None else rated
    if bound is None:
        return
    found = list(texts(bound + spare))
    if not found:
        return
    worst = max(found, key=lambda each: each.num_tokens)
    length = worst.num_tokens - spare
    if fsdp_forward(model, lambda: can_read(model, length, limit)):
        watcher.note(
            f"{name} was made for {bound:,} positions and reads up to {length:,} (problem {worst.problem}): its "
            "positions go on, but what it says there may be worse"
        )
        return
    raise ConfigError(
        f"{name} has {bound:,} positions, and {len({each.problem for each in found})} problems need more: that of "
        f"{worst.problem} has {worst.num_prompt:,} tokens and {worst.num_tokens - worst.num_prompt:,} more in "
        f"{worst.behind}: {mends[0] if worst.is_sampled else mends[1]}"
    )


def too_long(
    problems: Sequence[Problem], renderer: Renderer, asked: Collection[GenerationRequest], max_tokens: int, above: int
) -> Iterable[Text]:
    """The longest text of each problem, where it has more than `above` tokens: what one of the wishes `asked` reads.

    What is shorter in bytes is not made tokens of: a token has one at least.
    """
    if not problems:
        return
    frame = len(renderer.prompt_text(problems[0]).encode("utf-8", "replace")) + MARGIN
    for problem in problems:
        written = (str(problem.prompt), problem.demonstration_text, problem.chosen or "", problem.rejected or "")
        if sum(len(text.encode("utf-8", "replace")) for text in written) + 2 * frame + max_tokens <= above:
            continue
        num_prompt = len(renderer.prompt(problem))
        num_behind, what = max(behind(problem, renderer, asked, max_tokens), default=(0, "nothing"))
        if num_prompt + num_behind > above:
            yield Text(problem.id, num_prompt, num_prompt + num_behind, what)


def behind(
    problem: Problem, renderer: Renderer, asked: Collection[GenerationRequest], max_tokens: int
) -> Iterable[tuple[int, str]]:
    """How many tokens may stand behind a problem's prompt, and what they are, for each of the wishes."""
    shown = renderer.demonstration(problem) if problem.demonstration else None
    for request in asked:
        if request.rollouts or request.greedy:
            yield len(hint_tokens(shown, request)) + min(request.max_tokens or max_tokens, max_tokens), SAMPLED
        if request.demonstrations and shown is not None:
            yield len(shown.ids), "its demonstration"
        if request.pairs and problem.chosen is not None and problem.rejected is not None:
            for text in (problem.chosen, problem.rejected):
                yield len(renderer.response(problem, (text,)).ids), "its chosen or rejected answer"
