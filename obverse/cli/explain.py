"""Methods in the terminal: all of them as a table, or one in full with the meaning of its parts. No torch import."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from obverse.cli.command import method_words, show_method_help
from obverse.cli.commands import Words
from obverse.cli.method_table import Entry, by_family, entry, term_rows
from obverse.cli.parser import default_text
from obverse.cli.results_console import results_console
from obverse.estimator.formula import Term
from obverse.estimator.method import Method
from obverse.methods._docstring import labeled

HEADER = ("trains", "mask", "pi_ref", "advantage", "normalizer")
WIDEST = (13, 11, 17, 18, 14)  # with their gaps 80 columns


def methods_table(rows: Iterable[Entry]) -> RenderableType:
    """All methods by family: a line for each, then a row per term with the names of its parts."""
    families = by_family(rows)
    cells = [HEADER, *(term for members in families.values() for row in members for term in _term_names(row))]
    widths = [min(max(map(len, column)), most) for column, most in zip(zip(*cells, strict=True), WIDEST, strict=True)]
    blocks: list[RenderableType] = [_grid(widths, [HEADER], "bold")]
    for family, members in families.items():
        blocks.append(Text(f"\n{family}", style="bold cyan"))
        for row in members:
            title = Text.assemble(
                (row.name, "bold"), f" {row.paper}  needs {', '.join(row.data)}; cost {row.cost}; {row.proof[0]}"
            )
            blocks += [title, _grid(widths, _term_names(row))]
    return Group(*blocks)


def _term_names(row: Entry) -> list[tuple[str, ...]]:
    """A method's terms as the names of their parts, without repetitions."""
    terms = ((label, *(part.partition("(")[0] for part in parts)) for label, *parts in term_rows(row.methods))
    return list(dict.fromkeys(terms))


def _grid(widths: Sequence[int], rows: Iterable[Sequence[str]], style: str = "") -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=1)
    for width in widths:
        table.add_column(width=width, overflow="fold", style=style)
    for row in rows:
        table.add_row("", *map(Text, row))
    return table


def explanation(row: Entry) -> RenderableType:
    """One method in full: its docstring, the parts of every term and what they mean, its options."""
    blocks: list[RenderableType] = [_docstring(row.text)]
    has_stages = len(row.schedule.stages) > 1
    for stage, method in enumerate(row.methods):
        blocks += [Text(f"stage {stage}", style="bold magenta")] if has_stages else []
        for number, term in enumerate(method.terms, start=1):
            stream = "" if term.on == "logp" else f", through their {term.on}"
            headline = Text(f"term {number}: {term.source.label} tokens{stream}", style="bold")
            blocks += [headline, _parts(term_parts(term))]
        blocks += [Text("samples and state", style="bold"), _parts(sampling_parts(method))]
    if has_stages:
        blocks += [Text("stage selector", style="bold"), _parts([("selector", row.schedule.selector)])]
    sections: list[tuple[str, Mapping[str, Any], Mapping[str, str]]] = [
        ("options of the method", row.options, row.help),
        ("options that every method has", row.components, row.help),
        ("run options of the paper", row.schedule.run, {}),
    ]
    for title, values, texts in sections:
        blocks += [Text(title, style="bold"), _options(values, texts)]
    cost = f"costs at most {row.cost} forward / backward passes per problem (SFT 1 / 1)"
    blocks.append(Text(f"needs {', '.join(row.data)}; {cost}" + (f"; arXiv {row.paper}" if row.paper else "")))
    return Group(*blocks)


def _options(values: Mapping[str, Any], texts: Mapping[str, str]) -> RenderableType:
    """A line per option: as it is typed with its value, and its help text."""
    if not values:
        return Text("  none\n")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(style="dim")
    for name, value in values.items():
        table.add_row(Text(f"  --{name} {default_text(value)}"), Text(texts.get(name, "")))
    return Padding(table, (0, 0, 1, 0))


def sampling_parts(method: Method) -> list[tuple[str, Any]]:
    """What a method samples and selects, and its optional parts: shaping, critic, memory, inputs."""
    optional = (
        *(method.critic, method.memory, method.inputs, method.teacher, method.divergence),
        *(method.replay, method.follow_up),
    )
    rows: list[tuple[str, Any]] = [("ask", method.ask), ("keep", method.keep)]
    rows += [("problems", method.problems)] if method.problems is not None else []
    rows += [("shaping", part) for part in method.shaping]
    names = ("critic", "memory", "inputs", "teacher", "divergence", "replay", "follow_up")
    return rows + [(name, part) for name, part in zip(names, optional, strict=True) if part is not None]


def _docstring(text: str) -> RenderableType:
    """A docstring: its first line, then its `Label  text` entries wrapped beside their labels."""
    first, *lines = text.splitlines()
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=14, style="dim")
    table.add_column()
    for label, words in labeled(lines):
        table.add_row(label, Text(" ".join(words.splitlines())))
    return Group(Text(first, style="bold"), Padding(table, (1, 0, 1, 0)))


def term_parts(term: Term) -> list[tuple[str, Any]]:
    """A term's parts by their names in the formula."""
    return [
        ("mask", term.mask),
        ("pi_ref", term.reference),
        ("advantage", term.advantage),
        ("normalizer", term.normalizer),
        ("weight", term.weight),
    ]


def _parts(rows: Iterable[tuple[str, Any]]) -> RenderableType:
    """A line per part: its role, its value, and the first sentence of its docstring."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=12)
    table.add_column(width=24, overflow="fold")
    table.add_column()
    for name, part in rows:
        table.add_row(f"  {name}", Text(str(part), style="cyan"), Text(first_sentence(part), style="dim"))
    return Padding(table, (0, 0, 1, 0))


def first_sentence(part: Any) -> str:
    """The first sentence of a part's docstring, without its source; empty for numbers."""
    if isinstance(part, int | float):
        return ""
    text = " ".join((inspect.getdoc(part) or "").split())
    return re.split(r"(?<=\.)\s+(?=[A-Z`])|\s+Source:", text)[0]


def run(words: Words) -> int:
    """`obverse explain METHOD [options]`."""
    method, options, _ = method_words(words, "explain", 1)
    results_console().print(explanation(entry(method, options)))
    return 0


def show_help(words: Words) -> None:
    show_method_help(words, "explain")
