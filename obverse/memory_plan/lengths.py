"""The longest prompt and texts of a run: of the data if it is on this machine, else the limits of the options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from obverse.config.train import TrainConfig
from obverse.data import EMBEDDED, load_dataset
from obverse.data.renderer import Renderer
from obverse.errors import UserError
from obverse.memory_plan.batch_shapes import Lengths
from obverse.models.load import load_tokenizer
from obverse.types import Problem

NUM_TOKENIZED = 8  # texts, the longest by characters
DEFAULT_PROMPT = 1_024  # tokens of a prompt, without data and option


def lengths(config: TrainConfig) -> tuple[Lengths, str]:
    """The longest prompt, text and completion of a run, and a sentence on their source."""
    prompt, response = config.max_prompt_length or DEFAULT_PROMPT, config.max_completion_length
    try:
        problems, renderer = _problems(config), _renderer(config)
        longest = _longest(problems, lambda problem: str(problem.prompt), lambda problem: len(renderer.prompt(problem)))
        if not longest:  # transformers returns an empty tokenizer for a folder without its files
            raise UserError(f"{config.model} has no tokenizer to count them with")
    except (UserError, OSError, ValueError) as error:
        assumed = f"prompts of {prompt} tokens and texts of {response} are assumed"
        return Lengths(prompt, response, config.max_completion_length), f"{assumed}: {str(error).splitlines()[0]}"
    texts = [
        _longest(
            problems,
            lambda problem: problem.demonstration_text,
            lambda problem: len(renderer.demonstration(problem).ids),
        ),
        *(
            _longest(
                problems,
                lambda problem, kind=kind: getattr(problem, kind) or "",  # type: ignore[misc]
                lambda problem, kind=kind: len(renderer.response(problem, (getattr(problem, kind),), kind).ids),  # type: ignore[misc]
            )
            for kind in ("chosen", "rejected")
        ),
    ]
    prompt = min(longest, config.max_prompt_length or longest)
    longest_texts = Lengths(prompt, max(texts) or response, config.max_completion_length)
    return longest_texts, f"the longest prompt has {prompt} tokens, the longest text {max(texts)}"


def _problems(config: TrainConfig) -> list[Problem]:
    """The data set. Raises UserError for one that is not on this machine."""
    name = config.dataset.partition(":")[0]
    if name not in EMBEDDED and not Path(config.dataset).expanduser().exists():
        raise UserError(f"the data set {config.dataset} is not on this machine, and is not downloaded")
    return load_dataset(config.dataset, split=config.dataset_split, num_problems=config.num_problems, seed=config.seed)


def _renderer(config: TrainConfig) -> Renderer:
    return Renderer.of(load_tokenizer(config.model, local_files_only=True), config, None)


def _longest(problems: Sequence[Problem], text: Callable[[Problem], str], count: Callable[[Problem], int]) -> int:
    """The largest `count` of tokens among the problems with the longest `text`; 0 without texts."""
    candidates = sorted(filter(text, problems), key=lambda problem: len(text(problem)))[-NUM_TOKENIZED:]
    return max(map(count, candidates), default=0)
