"""Methods for people: all of them in one table, or one in full with what each of its parts means. No torch here."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from obverse.cli.method_table import FAMILIES, Entry, term_rows
from obverse.cli.parser import default_text
from obverse.estimator.formula import Term
from obverse.estimator.method import Method

HEADER = ("trains", "mask", "pi_ref", "advantage", "share")
WIDEST = (13, 11, 17, 18, 14)  # with their gaps 80 columns


def methods_table(found: Iterable[Entry]) -> RenderableType:
    """All methods by family: a line for each, then a row per term by the names of its parts."""
    members = list(found)
    rows = [HEADER, *(row for each in members for row in _term_names(each))]
    widths = [min(max(map(len, column)), most) for column, most in zip(zip(*rows, strict=True), WIDEST, strict=True)]
    parts: list[RenderableType] = [_grid(widths, [HEADER], "bold")]
    for family in FAMILIES:
        parts += [Text(f"\n{family}", style="bold cyan")] if any(each.family == family for each in members) else []
        for each in members:
            if each.family == family:
                title = Text.assemble((each.name, "bold"), f" {each.paper}  needs {', '.join(each.data)}")
                parts += [title, _grid(widths, _term_names(each))]
    return Group(*parts)


def _term_names(each: Entry) -> list[tuple[str, ...]]:
    """A method's terms by the names of their parts, equal ones once."""
    rows = ((label, *(part.partition("(")[0] for part in parts)) for label, *parts in term_rows(each.methods))
    return list(dict.fromkeys(rows))


def _grid(widths: Sequence[int], rows: Iterable[Sequence[str]], style: str = "") -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=1)
    for width in widths:
        table.add_column(width=width, overflow="fold", style=style)
    for row in rows:
        table.add_row("", *map(Text, row))
    return table


def explanation(each: Entry) -> RenderableType:
    """One method in full: its own words, then its value part by part."""
    parts: list[RenderableType] = [_words(each.text)]
    several = len(each.schedule.stages) > 1
    for stage, method in enumerate(each.methods):
        parts += [Text(f"lane {stage}", style="bold magenta")] if several else []
        for number, term in enumerate(method.terms, start=1):
            stream = "" if term.on == "logp" else f", through their {term.on}"
            headline = Text(f"term {number}: {term.source.label} tokens{stream}", style="bold")
            parts += [headline, _parts(term_parts(term))]
        parts += [Text("plan", style="bold"), _parts(plan(method))]
    if several:
        parts += [Text("whose turn it is", style="bold"), _parts([("turn", each.schedule.selector)])]
    lists = (
        ("options of the method", each.options),
        ("options that every method has", each.components),
        ("run options of the paper", each.schedule.run),
    )
    for title, values in lists:
        lines = [f"  --{name} {default_text(value)}\n" for name, value in values.items()]
        parts += [Text(title, style="bold"), Text("".join(lines) or "  none\n")]
    parts.append(Text(f"needs {', '.join(each.data)}" + (f"; arXiv {each.paper}" if each.paper else "")))
    return Group(*parts)


def plan(method: Method) -> list[tuple[str, Any]]:
    """What a method asks for and keeps, and what else it brings along."""
    others = {"shaping": method.shaping, "critic": method.critic, "memory": method.memory, "inputs": method.inputs}
    rows: list[tuple[str, Any]] = [("ask", method.ask), ("keep", method.keep)]
    for name, part in others.items():
        for each in part if isinstance(part, tuple) else (part,):
            rows += [(name, each)] if each is not None else []
    return rows


def _words(text: str) -> RenderableType:
    """A docstring: its first line, then its `Label  text` entries wrapped beside their labels."""
    first, *lines = text.splitlines()
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=14, style="dim")
    table.add_column()
    for label, words in labeled(lines):
        table.add_row(label, Text(" ".join(words.splitlines())))
    return Group(Text(first, style="bold"), Padding(table, (1, 0, 1, 0)))


def labeled(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(label, text) of every entry of a docstring, line by line; an indented line continues the one before."""
    label, words = "", ""
    for line in lines:
        if line.startswith(" "):
            words = f"{words}\n{line.strip()}"
            continue
        if words:
            yield label, words
        found = re.match(r"(.{1,24}?)\s{2,}(.+)", line) or re.match(r"(Estimator) (.+)", line)
        label, words = (found[1], found[2]) if found else ("", line)
    if words:
        yield label, words


def term_parts(term: Term) -> list[tuple[str, Any]]:
    """A term's parts under the names that the formula has for them."""
    return [
        ("mask", term.mask),
        ("pi_ref", term.reference),
        ("advantage", term.advantage),
        ("share", term.normalizer),
        ("weight", term.weight),
    ]


def _parts(rows: Iterable[tuple[str, Any]]) -> RenderableType:
    """What stands there, its value, and what that means in the part's own words."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=11)
    table.add_column(width=24, overflow="fold")
    table.add_column()
    for name, part in rows:
        table.add_row(f"  {name}", Text(str(part), style="cyan"), Text(first_sentence(part), style="dim"))
    return Padding(table, (0, 0, 1, 0))


def first_sentence(part: Any) -> str:
    """How a part describes itself, without its source; numbers say nothing."""
    if isinstance(part, int | float):
        return ""
    text = " ".join((inspect.getdoc(part) or "").split())
    return re.split(r"(?<=\.)\s+(?=[A-Z`])|\s+Source:", text)[0]
