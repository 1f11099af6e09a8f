"""`obverse data`: counts of a data set, leaks between its splits, and problems as text or as a model's tokens.

Torch and transformers are imported for tokens only.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from obverse.cli.command import parse_options
from obverse.cli.commands import COMMANDS, Words, load
from obverse.cli.parser import print_help
from obverse.cli.progress_panel import Panel
from obverse.cli.results_console import results_console
from obverse.cli.teacher_prompts import contexts, message_of, teacher_of, tokens_of
from obverse.config.commands import DataConfig
from obverse.data import EMBEDDED, load_dataset
from obverse.data.control_tokens import LOOKS_LIKE, texts_in
from obverse.data.dataset_folders import splits_of
from obverse.data.epoch_order import wording
from obverse.data.readers import count
from obverse.data.renderer import Renderer
from obverse.data.template_mismatches import MAX_REPORTED, answers, control_token_rows, raise_all
from obverse.errors import ConfigError, DataError
from obverse.redact import flat
from obverse.rewards import reference_notes, unparseable_references
from obverse.seeds import seed_for
from obverse.types import Problem

MAX_LISTED = 20
STYLES = {  # two alternating styles
    "prompt": ("", "reverse"),
    "demonstration": ("green", "reverse green"),
    "teacher's prompt": ("magenta", "reverse magenta"),
}
TRAINED = {
    "prompt": "never trained",
    "demonstration": "trained by methods that imitate",
    "teacher's prompt": "read by the teacher only, before the response",
}


def run(words: Words) -> int:
    """`obverse data check|show DATASET [--model MODEL] [options]`."""
    action = words.pop(0) if words and words[0] in ("check", "show") else ""
    if not action:
        raise ConfigError(
            "data: check or show? 'obverse data check FILE' counts, 'obverse data show FILE' prints problems"
        )
    config = parse_options(DataConfig, words, f"data {action}", "dataset")
    console = results_console()
    with Panel.beside_results():
        if action == "check":
            problems = check(config, console)
            if config.model is not None:
                check_tokens(config, problems, console)
        elif config.model is None:
            show(config, console)
        else:
            show_tokens(config, some(config), console)
    return 0


def show_help(words: Words) -> None:
    command = COMMANDS["data"]
    print_help(f"obverse {command.usage}", command.summary, DataConfig, [])


def check(config: DataConfig, console: Console) -> list[Problem]:
    """Read every row and print counts; DataError (exit 3) lists all rows that cannot be read. Returns the problems."""
    problems = read(config, config.dataset_split)
    table = Table.grid(padding=(0, 2))
    for name, text in counts(problems).items():
        table.add_row(Text(name, style="dim"), Text(flat(text)))
    console.print(table)
    for line in [
        *(remarks(problems) if config.model is None else turns(problems)),
        *compared_as_text(problems),
        *overlaps(config, problems),
    ]:
        console.print(Text(flat(line)))
    return problems


def read(config: DataConfig, split: str) -> list[Problem]:
    """The problems of one split."""
    return load_dataset(config.dataset, split=split, num_problems=config.num_problems, seed=config.seed)


def counts(problems: Sequence[Problem]) -> dict[str, str]:
    """The counts as texts by name; empty ones are left out."""
    counted = count(problems)
    levels = Counter(str(problem.meta.get("difficulty", problem.meta.get("level", ""))) for problem in problems)
    demonstrated = [problem for problem in problems if problem.demonstration]
    repeated = len(problems) - len({wording(problem) for problem in problems})
    texts = {
        "problems": f"{counted.num_rows:,}",
        "answers": f"{counted.num_with_answer:,}",
        "demonstrations": f"{counted.num_with_demonstration:,}",
        "pairs": f"{sum(problem.chosen is not None and problem.rejected is not None for problem in problems):,}",
        "verifiers": tally(counted.num_by_verifier),
        "difficulty": tally(levels) if set(levels) != {""} else "",
        "repeated": f"{repeated:,} prompts occur more than once" if repeated else "",
        "prompt": lengths([len(wording(problem)) for problem in problems]),
        "demonstration": lengths([len(problem.demonstration_text) for problem in demonstrated]),
        "steps": lengths([len(problem.demonstration) for problem in demonstrated], "steps"),
    }
    return {name: text for name, text in texts.items() if text not in ("", "0")}


def tally(numbers: Mapping[str, int]) -> str:
    """`exact 100, math 900`, by name."""
    return ", ".join(f"{name or 'unknown'} {number:,}" for name, number in sorted(numbers.items()))


def lengths(values: Sequence[int], unit: str = "characters") -> str:
    """Median and largest."""
    return f"{statistics.median(values):g} {unit} in the middle, {max(values):,} at most" if values else ""


def remarks(problems: Sequence[Problem]) -> list[str]:
    """Notes to read before training: turns that are not trained, texts that look like control tokens."""
    lines = turns(problems)
    rows = [(number, row, match) for number, row in enumerate(problems, 1) if (match := _looks_like_control(row))]
    for number, problem, token in rows[:MAX_LISTED]:
        lines.append(f"row {number} ({problem.id}): {token!a} looks like a control token: it is read as text")
    if len(rows) > MAX_LISTED:
        lines.append(f"... and {len(rows) - MAX_LISTED:,} more rows with such texts")
    if rows:
        lines.append("whether they are control tokens depends on the tokenizer: give --model to see")
    return lines


def turns(problems: Sequence[Problem]) -> list[str]:
    """A line on answers of the assistant that are part of prompts."""
    prompts = [problem.prompt for problem in problems if not isinstance(problem.prompt, str)]
    counted = [sum(message["role"] == "assistant" for message in prompt) for prompt in prompts]
    if not any(counted):
        return []
    with_answers = sum(map(bool, counted))
    return [f"{with_answers:,} prompts hold {sum(counted):,} answers of the assistant: only the last one is trained"]


def _looks_like_control(problem: Problem) -> str:
    texts = [*texts_in(problem.prompt), *problem.demonstration, problem.chosen or "", problem.rejected or ""]
    return next((match[0] for text in [*texts, *texts_in(problem.template)] for match in LOOKS_LIKE.finditer(text)), "")


def compared_as_text(problems: Sequence[Problem]) -> list[str]:
    """A line for every reference answer of the math verifier that computer algebra cannot parse, and other notes."""
    as_text = [
        f"{problem.id}: the answer {str(problem.answer)[:80]!a} is compared as text: computer algebra cannot read it"
        for problem in unparseable_references(problems)
    ]
    return [*as_text, *reference_notes(problems)]


def overlaps(config: DataConfig, problems: Sequence[Problem]) -> list[str]:
    """A line for every two splits that share prompts, or one line if none do."""
    names = splits(config.dataset)
    if len(names) < 2:
        return []
    rows_of = {name: list(problems) if name == config.dataset_split else read(config, name) for name in names}
    prompts = {name: {wording(problem) for problem in rows} for name, rows in rows_of.items()}
    shared = {pair: len(prompts[pair[0]] & prompts[pair[1]]) for pair in combinations(names, 2)}
    lines = [
        f"LEAK: {number:,} prompts of {first} are also in {second}"
        for (first, second), number in shared.items()
        if number
    ]
    return lines or [f"no prompt is in two of {', '.join(names)}"]


def splits(dataset: str) -> list[str]:
    """The splits that can be compared: those of an embedded task, and those that files of a folder are named after."""
    if dataset.partition(":")[0] in EMBEDDED:
        return ["train", "heldout"]
    folder = Path(dataset).expanduser()
    return splits_of(folder) if folder.is_dir() else []


def some(config: DataConfig) -> list[Problem]:
    """`config.num` problems, drawn by the seed, in the order of the data."""
    problems = read(config, config.dataset_split)
    draw = random.Random(seed_for(config.seed, "show"))
    chosen = draw.sample(range(len(problems)), min(config.num, len(problems)))
    return [problems[index] for index in sorted(chosen)]


def show(config: DataConfig, console: Console) -> None:
    """Print some problems as text."""
    teacher = teacher_of(config)
    for problem in some(config):
        console.rule(Text(flat(problem.id)), align="left", characters="-")
        messages = (
            [{"role": "prompt", "content": problem.prompt}] if isinstance(problem.prompt, str) else problem.prompt
        )
        for message in messages:
            _print(console, message["role"], message["content"])
            for key in message.keys() - {"role", "content"}:
                _print(console, key, str(message[key]))
        for number, step in enumerate(problem.demonstration, start=1):
            _print(console, f"step {number}" if len(problem.demonstration) > 1 else "demonstration", step, "green")
        for name in ("chosen", "rejected", "answer", "verifier"):
            if getattr(problem, name) is not None:
                _print(console, name, str(getattr(problem, name)))
        for kind in ("demonstration", "chosen", "rejected"):
            for name, value in problem.template.get(kind, {}).items():
                _print(console, f"{kind}'s {name}", str(value))
        for name, value in problem.meta.items():
            _print(console, name, str(value)[:200], "dim")
        for context in contexts(teacher, problem, config.teacher_context):
            console.print(Text(f"the teacher's context: {context.kind}", style="dim"))
            _print(console, "teacher reads", message_of(config, problem, context), "magenta")


def _print(console: Console, name: str, text: str, style: str = "") -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(width=14, style="dim")
    table.add_column(overflow="fold")
    table.add_row(Text(flat(name)), Text(flat(text), style=style))
    console.print(table)


def show_tokens(config: DataConfig, problems: Iterable[Problem], console: Console) -> None:
    """Print every problem's tokens, and below them their ids."""
    teacher = teacher_of(config)
    renderer: Renderer = load("obverse.models.load_renderer:load_renderer")(config)
    console.print(Text(flat(renderer.describe()), style="bold"))
    for problem in problems:
        console.rule(Text(flat(problem.id)), align="left", characters="-")
        for part, tokens in groupby(renderer.show(problem), key=lambda token: token[2]):
            print_part(console, part, [(text, number) for text, number, _ in tokens])
        for context in contexts(teacher, problem, config.teacher_context):
            console.print(Text(f"the teacher's context: {context.kind}", style="dim"))
            print_part(console, "teacher's prompt", tokens_of(config, renderer, problem, context))


def check_tokens(config: DataConfig, problems: Sequence[Problem], console: Console) -> None:
    """Check the rows with the model's tokenizer and template; DataError for rows of which the template drops parts.

    Printed: the longest prompt and answer in tokens, rows that spell out control tokens, and the number of answers that
    the template would change.
    """
    renderer: Renderer = load("obverse.models.load_renderer:load_renderer")(config)
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
    for number, problem, tokens in control_token_rows(problems, renderer)[:MAX_REPORTED]:
        read = "tokens (--parse_special_tokens)" if renderer.parse_special_tokens else "text"
        spelled = ", ".join(map(ascii, tokens))
        console.print(Text(flat(f"row {number} ({problem.id}) spells out {spelled}: read as {read}")))
    if rewritten:
        console.print(
            Text(f"{rewritten:,} answers are trained unchanged: the template would rewrite them or their prompt")
        )
    if errors:
        raise_all(errors)


def print_part(console: Console, part: str, tokens: Sequence[tuple[str, int]]) -> None:
    """Print one part: the number of tokens, the tokens separated by bars, their ids."""
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
