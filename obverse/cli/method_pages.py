"""The pages of docs/methods: a page per method with its docstring, its parts and its options, and an index."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from obverse.cli.explain import first_sentence, sampling_parts, term_parts
from obverse.cli.method_table import Entry, by_family, markdown_table
from obverse.cli.parser import choices, default_text
from obverse.config.method_options import method_schema
from obverse.errors import StorageError
from obverse.estimator.method import Method
from obverse.methods import COMPONENTS
from obverse.methods._components import TEXTS, compose
from obverse.methods._docstring import labeled

INDEX, SHARED = "README.md", "components.md"
FORMULAS = ("Equation", "Estimator")
NOTE = "<!-- Generated: change the method's docstring or value, then run `make methods`. -->"
TAGS = """Every page is generated from the method's value and its docstring. Numbers name their source: `[code]` the
code of the authors or of the named library, `[paper]` the paper, `[2nd]` a secondary account of it, `[mem]` general
knowledge, `[derived]` a calculation of this project. The `anchor` is the frozen initial model, which TRL calls
`ref_model`."""

COLUMNS = """`cost` is the most that a problem costs in a step, in forward and backward passes over one response, all
responses taken as equally long: sampling a response is one forward pass, scoring it by another model another one, SFT
is 1 / 1. Prompts and evaluations are left out. `proven` says what a method's coefficients were compared with, the
strongest first: a function of the *authors' code*, a *peer* (a maintained library), the *literal objective* that a test
of this project writes out and differentiates (every method has one), or *derived*: the objective itself is a
reconstruction."""

NOT_BUILT = """## Methods that are not here, and why

A method here is a value: requests, selections, and a coefficient for every token. These are something else.

- **AMFT** ([2508.06944](https://arxiv.org/abs/2508.06944) [abs]) learns the weight between SFT and RL by a
  meta-gradient: the inner product of a step's gradient with that of a validation batch. That is a second gradient of
  the same weights, not a coefficient. A fixed weight is [sft_rl_sum](sft_rl_sum.md), a scheduled one
  [chord](chord.md).
- **BRIDGE** ([2509.06948](https://arxiv.org/abs/2509.06948) [abs]) is bilevel: SFT trains an adapter so that RL on
  the base weights does better, which takes gradients through RL's steps.
- **MIFO** ([2510.04454](https://arxiv.org/abs/2510.04454) [abs]) freezes the parameters that RL moved most while SFT
  trains on hard problems and tokens of high entropy: a mask on parameters, in the optimizer. Its turns are those of
  [relift](relift.md).
- **SASR** ([2505.13026](https://arxiv.org/abs/2505.13026) [abs]) chooses SFT or GRPO for each step by comparing SFT's
  gradient norm with that of the warm-up: it takes both gradients of a step to use one. Fixed turns are
  [alternate](alternate.md), turns by failed problems [relift](relift.md).
- **SuperRL** ([2506.01096](https://arxiv.org/abs/2506.01096) [abs]) is [hpt](hpt.md) with the options that its page
  names, and no method of its own.
- **SFT, then RL from the plateau on** ([2512.11470](https://arxiv.org/abs/2512.11470) [abs]) is
  [sft_then_rl](sft_then_rl.md) with `--patience`."""


def write(folder: Path, rows: Iterable[Entry]) -> int:
    """Write all pages into a folder, created if missing, and return their number; StorageError if that fails."""
    texts = pages(list(rows))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"--pages: the folder {folder} cannot be written: {error.strerror}; choose another"
        ) from None
    return len(texts)


def pages(rows: list[Entry]) -> dict[str, str]:
    """The text of every page by its file name: an index, the components that all methods take, a page per method."""
    blocks = {INDEX: index(rows), SHARED: components(rows)} | {f"{row.name}.md": page(row) for row in rows}
    return {name: "\n\n".join([NOTE, *parts]) + "\n" for name, parts in blocks.items()}


def index(rows: list[Entry]) -> Iterator[str]:
    """All methods by family, a line for each, then all of their terms in one table."""
    yield f"# Methods\n\n{TAGS}"
    yield COLUMNS
    yield f"Every method takes these options beside its own: [components]({SHARED})."
    for family, members in by_family(rows).items():
        yield f"## {family.capitalize()}"
        cells = [
            (f"[{row.name}]({row.name}.md)", row.summary, ", ".join(row.data), row.cost, row.proof[0], row.link)
            for row in members
        ]
        yield table(("method", "in one line", "needs", "cost", "proven", "paper"), cells)
    yield NOT_BUILT
    yield f"## Terms\n\nThe parts of every method's terms, by name.\n\n{markdown_table(rows)}"


def page(row: Entry) -> Iterator[str]:
    """One method in full."""
    yield f"# {row.name}\n\n{escaped(row.summary)}"
    yield f"Family: {row.family}. Needs: {', '.join(row.data)}. Paper: {row.link or 'none'}. [All methods]({INDEX})."
    yield f"Cost: {cost_text(row)}. Proven by: {row.proof[0] or 'not stated'}."
    yield f"```\n{train_command(row)}\nobverse weigh {row.name} STEP.json\n```"
    yield from sections(row.text)
    has_stages = len(row.schedule.stages) > 1
    for number, method in enumerate(row.methods):
        yield from terms(method, f", stage {number}" if has_stages else "")
    if has_stages:
        rates = [(f"learning rate, stage {i}", stage.learning_rate) for i, stage in enumerate(row.schedule.stages)]
        cells = [("stage selector", row.schedule.selector), *(rate for rate in rates if rate[1] is not None)]
        yield f"## Training schedule\n\n{table(('', 'value', 'meaning'), map(explained, cells))}"
    schema, texts = method_schema(row.make), row.help
    options = [
        (f"`--{name}`", code(default) + choices(schema, name), texts[name]) for name, default in row.options.items()
    ]
    yield f"## Options\n\n{table(('option', 'default', 'meaning'), options)}"
    yield f"Every method also has {', '.join(f'`--{name}`' for name in row.components)}: see [components]({SHARED})."
    run = [(f"`--{name}`", code(default)) for name, default in row.schedule.run.items()]
    yield f"## Run options of the paper\n\n{table(('option', 'value'), run)}"


def cost_text(row: Entry) -> str:
    """The cost of each stage in words, with the passes that are made beside those of sampling and training."""
    texts = []
    for cost in row.costs:
        scored = f" ({', '.join(cost['scored_by'])})" if cost["scored_by"] else ""
        texts.append(f"{cost['forward']} forward and {cost['backward']} backward passes{scored}")
    return f"at most {', then '.join(texts)} per problem and step; SFT has 1 and 1"


def train_command(row: Entry) -> str:
    """The command that trains by the method, with the option of a teacher that is another model: it has no default."""
    reads_model = any(method.teacher is not None and method.teacher.who == "model" for method in row.methods)
    return f"obverse train {row.name}" + (" --teacher_model DIR" if reads_model else "")


def terms(method: Method, suffix: str) -> Iterator[str]:
    """The terms of a method, the meaning of each part, and what the method samples, selects and keeps."""
    records = [term.record() for term in method.terms]
    parts = {f"{name} {part}": (name, part) for term in method.terms for name, part in term_parts(term)}
    yield f"## Terms{suffix}"
    names = ("source", "stream", "mask", "pi_ref", "advantage", "normalizer", "weight")
    yield table(names, [map(code, record.values()) for record in records])
    yield table(("", "part", "meaning"), [row for row in map(explained, parts.values()) if row[2]])
    rounds = [("max_rounds", method.max_rounds)] if method.max_rounds > 1 else []
    rows = map(explained, [*sampling_parts(method), *rounds])
    yield f"## Samples and state{suffix}\n\n{table(('', 'value', 'meaning'), rows)}"


def components(rows: list[Entry]) -> Iterator[str]:
    """The options that `compose` adds to every method, and the methods that have a parameter of the same name."""
    text = inspect.getdoc(compose) or ""
    yield f"# Components\n\n{escaped(text.splitlines()[0])}"
    yield from sections(text)
    owners = {name: [f"[{row.name}]({row.name}.md)" for row in rows if name in row.options] for name in COMPONENTS}
    cells = [
        (f"`--{name}`", code(option.default), TEXTS[name], ", ".join(owners[name]))
        for name, option in COMPONENTS.items()
    ]
    yield f"## Options\n\n{table(('option', 'default', 'meaning', 'methods with their own meaning of it'), cells)}"


def sections(text: str) -> Iterator[str]:
    """A docstring's entries under headings of their own; formulas keep their lines."""
    for label, words in labeled(text.splitlines()[1:]):
        body = f"```\n{words}\n```" if label in FORMULAS else escaped(" ".join(words.splitlines()))
        yield f"## {label}\n\n{body}" if label else body


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown; characters that would be read as markup are escaped."""
    first, *rest = [[escaped(cell).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [first, ["---"] * len(first), *rest]) if rest else "None."


def escaped(text: str) -> str:
    """Text with single asterisks and angle brackets escaped, except within `code`."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"<(?=\S)|(?<![\w*])\*(?!\w)|(?<=\w)\*(?=\w)", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def explained(row: tuple[str, Any]) -> tuple[str, str, str]:
    """A row of a table: the part's role, its value, and the first sentence of its docstring."""
    return row[0], code(row[1]), first_sentence(row[1])


def code(value: Any) -> str:
    """A value as one would type it, as code."""
    return f"`{default_text(value)}`"
