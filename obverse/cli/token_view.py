"""Problems as the model sees them: the exact tokens of prompt and demonstration, told apart by color and by place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text
from transformers import AutoTokenizer, GenerationConfig

from obverse.config.train import DataConfig
from obverse.data.renderer import Renderer
from obverse.data.template_mismatches import MAX_TOLD, answers, raise_all, spelled_out
from obverse.errors import ConfigError, DataError
from obverse.models.load import locate
from obverse.redact import flat
from obverse.types import Problem

STYLES = {"prompt": ("", "reverse"), "demonstration": ("green", "reverse green")}  # neighbors look different
TRAINED = {"prompt": "never trained", "demonstration": "trained by methods that imitate"}


def renderer_of(config: DataConfig) -> Renderer:
    """The renderer that a run with this model and template would use."""
    place = locate(str(config.model))
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--model: {config.model} has no tokenizer: {str(error).splitlines()[0]}") from None
    try:
        eos_ids = GenerationConfig.from_pretrained(place).eos_token_id
    except OSError:  # optional in a model's folder
        eos_ids = None
    return Renderer.of(tokenizer, config, eos_ids)


def show_tokens(config: DataConfig, problems: Iterable[Problem], console: Console) -> None:
    """Print every problem's tokens, then their ids."""
    renderer = renderer_of(config)
    console.print(Text(flat(renderer.describe()), style="bold"))
    for problem in problems:
        console.rule(Text(flat(problem.id)), align="left", characters="-")
        for part, tokens in groupby(renderer.show(problem), key=lambda token: token[2]):
            print_part(console, part, [(text, number) for text, number, _ in tokens])


def check_tokens(config: DataConfig, problems: Sequence[Problem], console: Console) -> None:
    """Print what the model's tokenizer and template make of the rows; DataError for those that they leave parts out of.

    Printed: how long rows are in tokens, which of them spell out control tokens, which answers the template would
    write in another way than they are trained.
    """
    renderer = renderer_of(config)
    console.print(Text(flat(renderer.describe()), style="bold"))
    errors, lengths, rewritten = [], [], 0
    for problem in problems:
        try:
            sizes = [len(rendered.ids) for _, rendered in answers(problem, renderer)]
            rewritten += sum(not rendered.as_written for _, rendered in answers(problem, renderer))
            lengths.append((len(renderer.prompt(problem)), max(sizes, default=0)))
        except (DataError, ConfigError) as error:
            errors.append(error)
    if lengths:
        prompts, texts = (max(column) for column in zip(*lengths, strict=True))
        console.print(Text(f"at most {prompts:,} tokens of a prompt, {texts:,} of an answer"))
    for number, problem, tokens in spelled_out(problems, renderer)[:MAX_TOLD]:
        read = "tokens (--parse_special_tokens)" if renderer.parse_special_tokens else "text"
        spelled = ", ".join(map(ascii, tokens))
        console.print(Text(flat(f"row {number} ({problem.id}) spells out {spelled}: read as {read}")))
    if rewritten:
        console.print(
            Text(f"{rewritten:,} answers are trained as they stand: the template would rewrite them or their prompt")
        )
    if errors:
        raise_all(errors)


def print_part(console: Console, part: str, tokens: Sequence[tuple[str, int]]) -> None:
    """One part: how many tokens, the tokens with bars between them, their ids."""
    console.print(Text(f"{part}: {len(tokens)} tokens, {TRAINED[part]}", style="dim"))
    line = Text()
    for number, (text, _) in enumerate(tokens):
        if number:
            line.append("|", style="dim")
        line.append(visible(text), style=STYLES[part][number % 2])
        if text.endswith("\n"):
            line.append("\n")
    console.print(line, soft_wrap=True)
    console.print(Text(" ".join(str(number) for _, number in tokens), style="dim"), soft_wrap=True)


def visible(text: str) -> str:
    """A token's text with its line breaks written out."""
    return flat(text.replace("\n", "\\n").replace("\t", "\\t"))
