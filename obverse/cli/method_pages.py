"""A page per method for readers without a terminal: the docstring's sections, the value part by part, the options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from obverse.cli.explain import first_sentence, labeled, plan, term_parts
from obverse.cli.method_table import FAMILIES, Entry, term_record
from obverse.cli.parser import choices, default_text
from obverse.config.train import method_schema
from obverse.errors import StorageError
from obverse.estimator.method import Method
from obverse.methods import COMPONENTS
from obverse.methods._components import compose

INDEX, SHARED = "README.md", "components.md"
FORMULAS = ("Equation", "Estimator")
NOTE = "<!-- Written by `obverse methods --pages`: change the docstring or the value, then `make docs`. -->"
TAGS = """Every page is read off the method's value and its docstring. Numbers say where they come from: `[code]` the
code of the authors or of the library that is named, `[paper]` the paper, `[2nd]` somebody else's account of it, `[mem]`
general knowledge, `[derived]` a calculation of ours."""


def write(folder: Path, found: Iterable[Entry]) -> int:
    """Write all pages into a folder, which is made if need be; how many. StorageError if it cannot be written."""
    made = pages(list(found))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in made.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"--pages: the folder {folder} cannot be written: {error.strerror}; choose another"
        ) from None
    return len(made)


def pages(found: list[Entry]) -> dict[str, str]:
    """The text of every page by its file name: an index, the components that all methods take, a page per method."""
    made = {INDEX: index(found), SHARED: components(found)} | {f"{each.name}.md": page(each) for each in found}
    return {name: "\n\n".join([NOTE, *blocks]) + "\n" for name, blocks in made.items()}


def index(found: list[Entry]) -> Iterator[str]:
    """All methods by family, a line for each."""
    yield f"# Methods\n\n{TAGS}"
    yield f"What every method can be given on top of its own options: [components]({SHARED})."
    for family in FAMILIES:
        members = [each for each in found if each.family == family]
        yield f"## {family.capitalize()}"
        rows = [(f"[{each.name}]({each.name}.md)", each.summary, ", ".join(each.data), each.link) for each in members]
        yield table(("method", "in one line", "needs", "paper"), rows)


def page(each: Entry) -> Iterator[str]:
    """One method in full."""
    yield f"# {each.name}\n\n{escaped(each.summary)}"
    yield f"Family: {each.family}. Needs: {', '.join(each.data)}. Paper: {each.link or 'none'}. [All methods]({INDEX})."
    yield f"```\nobverse train {each.name}\nobverse weigh {each.name} STEP.json\n```"
    yield from sections(each.text)
    several = len(each.schedule.stages) > 1
    for number, method in enumerate(each.methods):
        yield from value(method, f", lane {number}" if several else "")
    if several:
        rates = [(f"learning rate, lane {i}", stage.learning_rate) for i, stage in enumerate(each.schedule.stages)]
        rows = [("turn", each.schedule.selector), *(rate for rate in rates if rate[1] is not None)]
        yield f"## Course\n\n{table(('', 'value', 'meaning'), map(explained, rows))}"
    schema = method_schema(each.make)
    options = [(f"`--{name}`", code(default) + choices(schema, name)) for name, default in each.options.items()]
    yield f"## Options\n\n{table(('option', 'default'), options)}"
    yield f"Every method also has {', '.join(f'`--{name}`' for name in each.components)}: see [components]({SHARED})."
    run = [(f"`--{name}`", code(default)) for name, default in each.schedule.run.items()]
    yield f"## Run options of the paper\n\n{table(('option', 'value'), run)}"


def value(method: Method, suffix: str) -> Iterator[str]:
    """How a method's tokens count, what each part means, and what it asks for and brings along."""
    records = [term_record(term) for term in method.terms]
    parts = {f"{name} {part}": (name, part) for term in method.terms for name, part in term_parts(term)}
    yield f"## Terms{suffix}"
    names = ("source", "stream", "mask", "pi_ref", "advantage", "share", "weight")
    yield table(names, [map(code, record.values()) for record in records])
    yield table(("", "part", "meaning"), [row for row in map(explained, parts.values()) if row[2]])
    rounds = [("max_rounds", method.max_rounds)] if method.max_rounds > 1 else []
    yield f"## Plan{suffix}\n\n{table(('', 'value', 'meaning'), map(explained, [*plan(method), *rounds]))}"


def components(found: list[Entry]) -> Iterator[str]:
    """What `compose` gives every method, and who has an option of the same name."""
    text = inspect.getdoc(compose) or ""
    yield f"# Components\n\n{escaped(text.splitlines()[0])}"
    yield from sections(text)
    owners = {name: [f"[{each.name}]({each.name}.md)" for each in found if name in each.options] for name in COMPONENTS}
    rows = [(f"`--{name}`", code(each.default), ", ".join(owners[name])) for name, each in COMPONENTS.items()]
    yield f"## Options\n\n{table(('option', 'default', 'methods with their own meaning of it'), rows)}"


def sections(text: str) -> Iterator[str]:
    """A docstring's entries under headings of their own; formulas keep their lines."""
    for label, words in labeled(text.splitlines()[1:]):
        body = f"```\n{words}\n```" if label in FORMULAS else escaped(" ".join(words.splitlines()))
        yield f"## {label}\n\n{body}" if label else body


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown; what only looks like markup is text."""
    first, *rest = [[escaped(cell).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [first, ["---"] * len(first), *rest]) if rest else "None."


def escaped(text: str) -> str:
    """Text in which a single asterisk and an angle bracket stand for themselves, but not within `code`."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"<(?=\S)|(?<![\w*])\*(?!\w)|(?<=\w)\*(?=\w)", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def explained(row: tuple[str, Any]) -> tuple[str, str, str]:
    """What stands there, its value, and what that means in the part's own words."""
    return row[0], code(row[1]), first_sentence(row[1])


def code(value: Any) -> str:
    """A value as one would type it, as code."""
    return f"`{default_text(value)}`"
