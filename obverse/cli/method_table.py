"""The table of methods as Markdown, JSON, and rows for the terminal. No torch import."""

from __future__ import annotations

import json
from collections.abc import Iterable

from obverse.api.method_entries import FAMILIES, Entry, by_family, entries, entry
from obverse.estimator.method import Method

__all__ = [
    "FAMILIES",
    "Entry",
    "by_family",
    "entries",
    "entry",
    "family_table",
    "markdown_table",
    "term_rows",
    "to_json",
]


def to_json(rows: Iterable[Entry]) -> str:
    """The method table as JSON."""
    return json.dumps([row.record() for row in rows], indent=2)


def term_rows(methods: Iterable[Method]) -> list[tuple[str, str, str, str, str]]:
    """A row per term: (source or stream, mask, pi_ref, advantage, normalizer)."""
    return [
        (
            term.source.label if term.on == "logp" else term.on,
            str(term.mask),
            str(term.reference),
            str(term.advantage),
            str(term.normalizer),
        )
        for method in methods
        for term in method.terms
    ]


def markdown_table(rows: Iterable[Entry]) -> str:
    """The method table in Markdown, with the names of the parts; their options are on the method's page."""
    lines = [
        "| method | family | needs | cost | proven | trains | mask | pi_ref | advantage | normalizer | paper |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        terms = dict.fromkeys(tuple(cell.partition("(")[0] for cell in term) for term in term_rows(row.methods))
        cells = ["<br>".join(column) for column in zip(*terms, strict=True)]
        facts = [f"`{row.name}`", row.family, ", ".join(row.data), row.cost, row.proof[0]]
        lines.append(f"| {' | '.join([*facts, *cells, row.link])} |")
    return "\n".join(lines)


FAMILY_TEXT = {
    "demonstrations": "imitate demonstrations",
    "own samples": "learn from graded rollouts of the policy",
    "hybrid": "learn from both, in one loss, per problem, or in turns",
    "teacher": "learn from the probabilities that a better or better informed model gives to the policy's tokens",
    "preferences": "learn from pairs of a chosen and a rejected response",
}


def family_table(rows: Iterable[Entry]) -> str:
    """The families in Markdown for the README: what they learn from, how many methods they have, and their names."""
    lines = ["| family | methods | |", "|---|---|---|"]
    for family, members in by_family(rows).items():
        links = ", ".join(f"[`{row.name}`](docs/methods/{row.name}.md)" for row in members)
        lines.append(f"| {family}: {FAMILY_TEXT[family]} | {len(members)} | {links} |")
    return "\n".join(lines)
