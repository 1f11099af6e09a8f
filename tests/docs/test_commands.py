"""Every command line on a page is one that the program accepts: its command, options and values fit the schemas."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from house.source import ROOT

from obverse.cli.commands import COMMANDS, load
from obverse.cli.parser import scan
from obverse.config.analyze import QUESTIONS
from obverse.config.eval import RegradeConfig
from obverse.config.fields import Options
from obverse.config.method_options import method_schema, train_schema
from obverse.config.resolve import read
from obverse.config.sources import COMMAND_LINE, Layer
from obverse.config.train import TrainConfig
from obverse.errors import ConfigError
from obverse.methods import find, names
from recipes.site.command_schemas import SCHEMAS

PAGES = [
    path
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "recipes" / "README.md")
    if path.name != "CHANGELOG.md"  # the options of a version may be gone in the next
]
STARTS = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(?:torchrun .*?-m |python -m |\.venv/bin/)?obverse (?=[a-z])")
USAGE = re.compile(r"\.\.\.|\[|\||^obverse (?:METHOD|COMMAND|QUESTION)|\b(?:METHOD|COMMAND|QUESTION|SCHEMA)\b")
FLAGS = {"--dry-run", "--json", "--markdown", "--help", "-h", "--help-all", "--debug", "--version"}
POSITIONAL = {
    "analyze": ("model",),
    "runs": ("folder",),
    "data": ("dataset",),
    "eval": ("model",),
    "serve-vllm": ("model",),
}
NO_OPTION = {"method", "config"}  # of `train`: words beside its schema


def commands(page: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of every command in a page's code blocks, with continued lines joined and comments cut."""
    fence, begun = "", ""
    for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), 1):
        if match := re.match(r"^(```+)(.*)", line):
            fence = "" if fence else match[2].strip() or "none"
            continue
        is_code = fence in ("sh", "bash", "none", "console") or (not fence and line.startswith("    "))
        if not is_code:
            continue
        text = begun + line.strip()
        begun = text[:-1] if text.endswith("\\") else ""
        if not begun and STARTS.match(text):
            command = re.split(r"\s+#\s|\s+\d?>{1,2}\s|\s&&\s|\s;\s", STARTS.sub("obverse ", text))[0]
            if not USAGE.search(command):
                yield number, command


def problem(command: str) -> str | None:
    """What the program refuses in a command line; None if it is accepted."""
    try:
        name, *words = shlex.split(command)[1:]
    except ValueError as error:
        return str(error)
    words = [word for word in words if word not in FLAGS]
    if name not in COMMANDS:
        return f"there is no command {name}"
    try:
        check(name, words)
    except ConfigError as error:
        return str(error)
    return None


def check(name: str, words: list[str]) -> None:
    """Raise ConfigError for options that do not exist and values out of bounds. Files are not looked at."""
    command = COMMANDS[name]
    if name == "analyze":
        question = words.pop(0)
        parse(QUESTIONS[question], words, POSITIONAL[name])
    elif name == "train" or ("METHOD" in command.usage.split() and not hasattr(command, "schema")):
        of_method(name, words)
    elif any(word.startswith("--regrade") for word in words):
        parse(RegradeConfig, words, ())
    elif name == "compare":
        scanned = scan(words, SCHEMAS[name])
        find_all(word.partition(",")[0] for word in scanned.positional)
        is_continued = "output_dir" in scanned.given and not scanned.positional
        given = {"methods": " ".join(scanned.positional), **({"budget": "1"} if is_continued else {}), **scanned.given}
        scanned.check(lambda: read(SCHEMAS[name], [Layer(COMMAND_LINE, given)], ""))
    else:
        schema = load(command.schema) if hasattr(command, "schema") else SCHEMAS.get(name, Options)
        words = words[1:] if name == "data" else words
        parse(schema, words, getattr(command, "positional", ()) or POSITIONAL.get(name, ()), several=name == "eval")


def of_method(name: str, words: list[str]) -> None:
    """Check a command whose first word is a method; a method in a file has options that are not known here."""
    method = scan(words, TrainConfig, NO_OPTION).positional[:1]
    make = find(method[0]) if method and ".py" not in method[0] else None
    schema: type[Options] = (
        TrainConfig if make is None else train_schema(make) if name == "train" else method_schema(make)
    )
    scanned = scan(words, schema, NO_OPTION)
    given = {option: value for option, value in scanned.given.items() if option not in NO_OPTION}
    if make is None and method:
        given = {option: value for option, value in given.items() if option in TrainConfig.model_fields}
    required = {"method": "sft", "method_options": {}} if issubclass(schema, TrainConfig) else {}
    values = {option: value for option, value in required.items() if option in schema.model_fields}
    layer, problems = Layer(COMMAND_LINE, given).cleaned(schema, "see --help")
    if problems or scanned.problems:
        raise ConfigError("\n".join([*problems, *scanned.problems]))
    validate(schema, {**values, **layer.values})


def validate(schema: type[Options], values: dict[str, object]) -> None:
    from pydantic import ValidationError

    try:
        schema.model_validate(values)
    except ValidationError as error:
        given = [mistake for mistake in error.errors() if mistake["type"] != "missing"]
        if given:
            raise ConfigError(f"--{given[0]['loc'][0]}: {given[0]['msg']}") from None


def parse(schema: type[Options], words: list[str], positional: tuple[str, ...], several: bool = False) -> None:
    scanned = scan(words, schema)
    most = len(scanned.positional) if several else len(positional)
    for option, word in zip(positional, scanned.take(most), strict=False):
        scanned.given[option] = word
    scanned.check(lambda: read(schema, [Layer(COMMAND_LINE, scanned.given)], "see --help"))


def find_all(methods: Iterator[str]) -> None:
    for method in methods:
        if ".py" not in method:
            find(method)


def test_commands_of_pages_are_accepted() -> None:
    lines = [(page.relative_to(ROOT), *line) for page in PAGES for line in commands(page)]
    assert len(lines) > 150
    assert {command.split()[1] for _, _, command in lines} >= {"train", "eval", "compare", "grade", "report", "weigh"}
    refused = [f"{page}:{number}: {command}: {text}" for page, number, command in lines if (text := problem(command))]
    assert not refused, "\n".join(refused)


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("obverse train hpt --max_step 3", "max_steps"),
        ("obverse train hpt --gate many", "gate"),
        ("obverse trian hpt", "trian"),
        ("obverse train htp", "hpt"),
        ("obverse eval embedded --ks 1,8", "ks"),
        ("obverse compare sft nonsense --budget 2M", "nonsense"),
        ("obverse compare sft grpo", "budget"),
        ("obverse report RUN --format gif", "format"),
        ("obverse analyze shift RUN --num_problems -1", "num_problems"),
        ("obverse weigh grpo STEP.json --epsilon low", "epsilon"),
    ],
)
def test_a_wrong_command_is_refused(command: str, word: str) -> None:
    assert word in (problem(command) or "")


def test_methods_have_a_page_with_their_commands() -> None:
    pages = {path.stem for path in PAGES if path.parent.name == "methods"}
    assert pages >= set(names())
