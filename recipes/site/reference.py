"""The reference pages, generated from the code: options, file formats, exit codes, verifiers, the Python API."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import obverse
from obverse import errors
from obverse.analysis import step_file
from obverse.cli import main as cli_main
from obverse.cli.commands import COMMANDS, Command, load
from obverse.cli.parser import choices, default_text, metavar
from obverse.config.analyze import QUESTIONS
from obverse.config.fields import Options
from obverse.report import schemas
from obverse.rewards import registry
from recipes.site.command_schemas import SCHEMAS

CODE = re.compile(r"(`[^`]*`)")
FIGURES = Path(__file__).parents[2] / "docs" / "pictures" / "figures.json"
OF_METHOD = "The options are those of the method: its [page](../methods/README.md) lists them, as `--help` does.\n"
OF_RUN = (
    "A method adds options of its own: its [page](../methods/README.md) lists them, as `obverse train NAME --help`.\n"
)
SCHEMA_TYPES = {
    "Number": "a finite number",
    "Maybe": "a finite number, or null where the figure is undefined",
    "Count": "a whole number, at least 0",
    "Fraction": "a number from 0 to 1",
    "Ends": "the two ends of a 95 % interval",
    "Text": "a text, a whole number or null",
}
FORMATS: dict[str, tuple[str, str, tuple[type, ...]]] = {  # by title: what the file is, and the types of its values
    "Completions of a step": (
        "samples/step-N.jsonl",
        "A row per completion. `correct` is null for a completion without a grade; `kept` says whether it trained.",
        (schemas.Completion,),
    ),
    "Result of an evaluation": (
        "eval/checkpoint-N/NAME/result.json",
        "`summary` has a row per difficulty, and `all`: `avg@n`, `pass@k` and `maj@k` are numbers from 0 to 1.",
        (schemas.Result, schemas.Level),
    ),
    "Table of a comparison": (
        "standings.json",
        "`entries` are the methods with their costs, `figures` the cells of the table.",
        (schemas.Standings, schemas.Entry, schemas.Cell, schemas.Cost),
    ),
    "Bias and variance": (
        "analysis/variance.json",
        "Written by `obverse analyze variance`.",
        (schemas.Variance, schemas.Success, schemas.Estimator, schemas.Stage),
    ),
    "Gradients": (
        "analysis/gradients.json",
        "Written by `obverse analyze gradients`.",
        (schemas.Gradients, schemas.GradientStage, schemas.Norm, schemas.Cosines),
    ),
    "Coefficients": (
        "analysis/coefficients.json",
        "Written by `obverse analyze coefficients`.",
        (schemas.Coefficients, schemas.Masses, schemas.Mass, schemas.Shaded),
    ),
    "Token probabilities": (
        "analysis/shift.json",
        "Written by `obverse analyze shift`.",
        (schemas.Shift, schemas.Kinds, schemas.Position, schemas.Moved),
    ),
    "Coverage": (
        "analysis/coverage.json",
        "Written by `obverse analyze coverage`.",
        (schemas.Coverage, schemas.Policy, schemas.Against),
    ),
}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. Bars in cells are escaped, but not those in code, where a backslash would be shown."""
    lines = [header, ["---"] * len(header), *(map(without_bars, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def without_bars(cell: str) -> str:
    """A cell in which no bar ends it."""
    return "".join(part if part.startswith("`") else part.replace("|", "\\|") for part in CODE.split(cell))


def sentence(text: str) -> str:
    """Text that Markdown shows as it is: stars, underscores and angle brackets are escaped outside of code."""
    parts = CODE.split(" ".join(text.split()))
    return "".join(part if part.startswith("`") else escaped(part) for part in parts)


def escaped(text: str) -> str:
    """Text without code in which no sign has a meaning in Markdown or HTML."""
    return re.sub(r"([*_\[\]])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def options(schema: type[Options], level: int = 2) -> str:
    """The options of a schema, a table per group: those of the short help first."""
    parts, short = [], schema.essential_groups()
    for group, all_names in schema.groups().items():
        names = dict.fromkeys((*short.get(group, ()), *all_names))
        parts.append(f"{'#' * level} {group[0].upper()}{group[1:]}\n")
        parts.append(table(("option", "meaning"), (option(schema, name) for name in names)))
    return "\n".join(parts)


def option(schema: type[Options], name: str) -> tuple[str, str]:
    """The cells of an option: its name with the placeholder of its value and the default, and its meaning."""
    field = schema.model_fields[name]
    default = "required" if field.is_required() else f"default `{default_text(field.default) or 'none'}`"
    written = f"--{name} {metavar(schema, name)}".strip()
    return f"`{written}`<br>{default}", sentence(f"{field.description}{choices(schema, name)}")


def help_text(command: Command) -> str:
    """What `--help` prints for a command without a schema."""
    output = io.StringIO()
    with redirect_stdout(output):
        command.show_help([])
    return f"```text\n{output.getvalue().strip()}\n```\n"


def command_page(name: str) -> str:
    """The page of a command: how it is written, what it does, all of its options."""
    command = COMMANDS[name]
    text = f"# obverse {name}\n\n{sentence(command.summary)}\n\n```text\nobverse {command.usage}\n```\n\n"
    if name == "analyze":
        for question, schema in QUESTIONS.items():
            about = (schema.__doc__ or "").splitlines()[0]
            text += f"## {name} {question}\n\n{sentence(about)}\n\n{options(schema, 3)}\n"
        return text
    schema = load(command.schema) if hasattr(command, "schema") else SCHEMAS.get(name)
    if schema is None:
        return text + (OF_METHOD if "METHOD" in command.usage else help_text(command))
    note = f"{OF_RUN}\n" if name == "train" else ""
    listed = options(schema) or "The command has no options.\n"
    return f"{text}{note}{listed}"


def overview() -> str:
    """The first page of the reference: every command, and the other pages."""
    commands = ((f"[`{command.usage}`]({name}.md)", sentence(command.summary)) for name, command in COMMANDS.items())
    others = {
        "methods": "[Methods](../methods/README.md): every method with its formula, parts, defaults and pitfalls",
        "files": "[File formats](files.md): the files of a run folder and of a comparison, step files",
        "figures": "[Figures](figures.md): every figure of a report, with its meaning",
        "codes": "[Exit codes](exit-codes.md): what a command's exit code means, and what to do",
        "verifiers": "[Verifiers](verifiers.md): the built-in graders",
        "python": "[Python API](python.md): the functions and classes of `import obverse`",
    }
    listed = "\n".join(f"- {text}" for text in others.values())
    listed_commands = table(("command", ""), commands)
    return f"# Reference\n\nGenerated from the code.\n\n## Commands\n\n{listed_commands}\n## More\n\n{listed}\n"


def exit_codes() -> str:
    """The exit codes with the errors that cause them."""
    from obverse.runtime.signals import NOT_SAVED  # here: it imports torch, which takes seconds

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.UserError)]
    rows = [("0", "", "Done."), ("1", "", "A bug of obverse, with its traceback; or `doctor` found something missing.")]
    for kind in sorted(kinds, key=lambda kind: kind.exit_code):
        if kind is not errors.UserError:
            about = re.sub(r" \(exit \d+\)", "", (kind.__doc__ or "").splitlines()[0])
            rows.append((str(kind.exit_code), f"`{kind.__name__}`", sentence(about)))
    rows += [
        (
            str(NOT_SAVED),
            "",
            "A run was stopped by a second signal before its state was saved; the last checkpoint holds.",
        ),
        (str(cli_main.INTERRUPTED), "", "Stopped by Ctrl-C; a run saves a checkpoint first."),
        (str(cli_main.NO_READER), "", "The reader of the output has ended, for example `head`."),
        ("143", "", "Stopped by SIGTERM; a run saves a checkpoint first."),
    ]
    about = (
        "A command that fails prints one line on stderr that begins with `error:` and says what is wrong, where, and "
        "what to do. Its exit code is that of the error's class, which Python code can catch: "
        "`from obverse.errors import ConfigError`. `--debug` adds the traceback."
    )
    return f"# Exit codes\n\n{about}\n\n{table(('code', 'error', 'meaning'), rows)}"


def file_formats() -> str:
    """The formats of stored files, from the schemas that the report checks them with, and of step files."""
    parts = [
        "# File formats",
        "Files of a run are JSON, JSON Lines, YAML or safetensors. [The walk](../walk.md#files-of-a-run-folder) lists "
        "the files of a run folder, [the report's page](../report.md#figures-of-a-step) the figures of metrics.jsonl, "
        "[the data page](../data.md#row-layouts) the rows of data sets. Readers ignore fields that they do not know.",
        table(("type", "values"), ((f"`{name}`", text) for name, text in SCHEMA_TYPES.items())),
    ]
    for title, (path, about, kinds) in FORMATS.items():
        parts += [f"## {title}", f"`{path}`. {about}"]
        for kind in kinds:
            parts += [f"**{kind.__name__}**", fields(kind)] if len(kinds) > 1 else [fields(kind)]
    parts += ["## Step files", step_files()]
    return "\n\n".join(parts) + "\n"


def fields(kind: type) -> str:
    """The fields of a typed dictionary."""
    rows = []
    for name, value in kind.__annotations__.items():
        written = getattr(value, "__forward_arg__", None) or str(value)
        optional = written.startswith("NotRequired[")
        written = written.removeprefix("NotRequired[").removesuffix("]") if optional else written
        written = re.sub(r"Annotated\[(.+?), [A-Z]\w+\(.*\)\]", r"\1", written)
        rows.append((f"`{name}`", f"`{written}`", "no" if optional else "yes"))
    return table(("field", "type", "required"), rows)


def step_files() -> str:
    """The keys of step files, after the docstring of their reader."""
    first, example, rest = (step_file.__doc__ or "").split("\n\n", 2)
    keys = ", ".join(f"`{key}`" for key in step_file.KEYS)
    code = "\n".join(line.removeprefix("    ") for line in example.splitlines())
    return (
        f"{sentence(first.replace(' Every mistake is one sentence. No torch import.', ''))}\n\n```json\n{code}\n```\n\n"
        f"{sentence(rest)}\n\nKeys of a sample: {keys}. Kinds: {', '.join(f'`{kind}`' for kind in step_file.KINDS)}. "
        f"Sources: {', '.join(f'`{source}`' for source in step_file.SOURCES)}.\n"
    )


def verifiers() -> str:
    """The built-in verifiers with what each compares."""
    rows = []
    for name in registry.NAMES:
        module = importlib.import_module(f"obverse.rewards.{name}")
        about = (inspect.getdoc(module) or "").split("\n\n")[0]
        rows.append((f"`{name}`", sentence(about)))
    about = (
        "`--verifier NAME` grades all rows by this verifier; a row can name another. `file.py:function` is a function "
        "of yours, and several are joined by commas: [Your reward](../start/reward.md), [graders](../graders.md)."
    )
    return f"# Verifiers\n\n{about}\n\n{table(('name', 'what it compares'), rows)}"


def python_api() -> str:
    """The public names of the package; mkdocstrings fills in their docstrings."""
    about = (
        "Every public name of `import obverse`; [the guide](../api.md) explains them with examples. Options are those "
        "of the command line, errors those of [the exit codes](exit-codes.md)."
    )
    parts = ["# Python API", about]
    values = [getattr(obverse, name) for name in obverse.__all__]
    public = [value for value in values if hasattr(value, "__qualname__")]
    for value in sorted(public, key=lambda value: (isinstance(value, type), value.__qualname__)):  # functions first
        parts.append(f"::: {value.__module__}.{value.__qualname__}")
    return "\n\n".join(parts) + "\n"


def figures() -> str:
    """Every figure of a report with its meaning, as `recipes.site.pictures` wrote them."""
    about = (
        "Every figure in the report of a 30-step run by HPT with all of its analyses, and of a comparison of three "
        "methods with two seeds, on the model and the tasks of the package. [Read the report](../start/report.md) "
        "begins with the most important ones."
    )
    parts = [f"# Figures\n\n{about}"]
    titles = {"run": "A run and its analyses", "comparison": "A comparison"}
    for prefix, rows in json.loads(FIGURES.read_text(encoding="utf-8")).items():
        parts.append(f"## {titles[prefix]}")
        for row in rows:
            parts += [f"### {row['title']}", f"![{row['title']}](../pictures/{row['file']})", sentence(row["meaning"])]
    return "\n\n".join(parts) + "\n"


PAGES: Mapping[str, Callable[[], str]] = {
    "reference/README.md": overview,
    **{f"reference/{name}.md": partial(command_page, name) for name in COMMANDS},
    "reference/files.md": file_formats,
    "reference/figures.md": figures,
    "reference/exit-codes.md": exit_codes,
    "reference/verifiers.md": verifiers,
    "reference/python.md": python_api,
}
