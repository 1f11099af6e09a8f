"""How long prompts and texts are: the longest of the data where they are at hand, else what the options allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import AutoTokenizer

from obverse.config.train import TrainConfig
from obverse.data import EMBEDDED, load_dataset
from obverse.data.renderer import Renderer
from obverse.errors import UserError
from obverse.memory_plan.batch_shapes import Lengths
from obverse.models.load import locate
from obverse.types import Problem

NUM_READ = 8  # texts that are made tokens of: the longest by letters
ASSUMED = 1_024  # tokens of a prompt, where neither data nor options say


def lengths(config: TrainConfig) -> tuple[Lengths, str]:
    """The longest prompt, text and completion of a run, and a sentence that says how they are known."""
    prompt, shown = config.max_prompt_length or ASSUMED, config.max_completion_length
    try:
        problems, renderer = _problems(config), _renderer(config)
        longest = _longest(problems, lambda each: str(each.prompt), lambda each: len(renderer.prompt(each)))
        if not longest:  # what a folder without a tokenizer's files is read as
            raise UserError(f"{config.model} has no tokenizer to count them with")
    except (UserError, OSError, ValueError) as error:
        assumed = f"prompts of {prompt} tokens and texts of {shown} are assumed"
        return Lengths(prompt, shown, config.max_completion_length), f"{assumed}: {str(error).splitlines()[0]}"
    texts = [
        _longest(problems, lambda each: each.demonstration_text, lambda each: len(renderer.demonstration(each).ids)),
        *(
            _longest(
                problems,
                lambda each, kind=kind: getattr(each, kind) or "",  # type: ignore[misc]
                lambda each, kind=kind: len(renderer.response(each, (getattr(each, kind),), kind).ids),  # type: ignore[misc]
            )
            for kind in ("chosen", "rejected")
        ),
    ]
    prompt = min(longest, config.max_prompt_length or longest)
    found = Lengths(prompt, max(texts) or shown, config.max_completion_length)
    return found, f"the longest prompt has {prompt} tokens, the longest text {max(texts)}"


def _problems(config: TrainConfig) -> list[Problem]:
    """The data set, if no network is needed for it."""
    name = config.dataset.partition(":")[0]
    if name not in EMBEDDED and not Path(config.dataset).expanduser().exists():
        raise UserError(f"the data set {config.dataset} is not on this machine, and no network is asked for it")
    return load_dataset(config.dataset, split=config.dataset_split, num_problems=config.num_problems, seed=config.seed)


def _renderer(config: TrainConfig) -> Renderer:
    tokenizer = AutoTokenizer.from_pretrained(locate(config.model), trust_remote_code=False, local_files_only=True)
    return Renderer.of(tokenizer, config, None)


def _longest(problems: Sequence[Problem], text: Callable[[Problem], str], count: Callable[[Problem], int]) -> int:
    """The most tokens that `count` finds among the problems whose `text` has most letters; 0 where none has any."""
    written = sorted((each for each in problems if text(each)), key=lambda each: len(text(each)))[-NUM_READ:]
    return max(map(count, written), default=0)
