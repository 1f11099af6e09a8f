"""The generated tables of the page that helps to choose a method: needs of methods, and their committed results."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from obverse.cli.method_table import entries
from recipes.site.reference import sentence, table

RESULTS = Path("docs") / "results.md"
VERDICT = re.compile(r" [-+=b]$")
NEEDS = {
    "demonstrations": "demonstrations: good answers to copy",
    "answers": "answers that a grader can check",
    "answers, demonstrations": "both",
    "teacher": "prompts alone, and a better model as a teacher",
    "demonstrations, teacher": "demonstrations, and a better model as a teacher",
    "pairs": "pairs of a better and a worse answer",
    "nothing": "prompts alone",
}
COLUMNS = (  # (header, k, column of the results)
    ("trained difficulties", "pass@1", "in domain"),
    ("of these the hard ones", "pass@1", "hard"),
    ("hard ones in 16 attempts", "pass@16", "hard"),
    ("another task that the base could do", "pass@1", "ood-countdown"),
)


def blocks(root: Path) -> dict[str, Callable[[], str]]:
    """The blocks of pages by the name in their mark `<!-- generated: NAME -->`."""
    return {"methods_by_data": methods_by_data, "results": partial(results, root / RESULTS)}


def methods_by_data() -> str:
    """A table of the methods by the data that they need."""
    groups: dict[str, list[str]] = {need: [] for need in NEEDS}
    for row in entries():
        needed = [name for name in row.data if name in ("answers", "demonstrations", "pairs", "teacher")]
        need = "pairs" if "pairs" in needed else ", ".join(needed) or "nothing"
        groups[need].append(f"[`{row.name}`](../methods/{row.name}.md)")
    return table(("you have", "methods"), ((NEEDS[need], ", ".join(names)) for need, names in groups.items() if names))


def results(page: Path) -> str:
    """The committed comparison as a table: percent with 95 % intervals after the last step, the best method first."""
    text = page.read_text(encoding="utf-8")
    figures = {k: standings(text, k, page) for k in {k for _, k, _ in COLUMNS}}
    first = figures[COLUMNS[0][1]]
    names = sorted(first, key=lambda name: -float(first[name][COLUMNS[0][2]].split()[0]))
    rows = [(linked(name), *(figures[k][name][column] for _, k, column in COLUMNS)) for name in names]
    return table(("method", *(header for header, _, _ in COLUMNS)), rows)


def linked(name: str) -> str:
    """A method of the results, with options after it, as a link to its page; the base is no method."""
    method, _, options = name.partition(" ")
    return name if method == "base" else f"[`{method}`](../methods/{method}.md) {sentence(options)}".strip()


def standings(text: str, k: str, page: Path) -> dict[str, dict[str, str]]:
    """The cells of the last step's table of `k` by method and column, without verdicts; exits if there is none."""
    block = re.search(rf"^\*\*{k}, last step\*\*\n\n((?:\|.*\n)+)", text, re.MULTILINE)
    if block is None:
        sys.exit(f"{page}: expects a table **{k}, last step**")
    header, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block[1].splitlines()]
    return {
        name: {column: VERDICT.sub("", cell) for column, cell in zip(header[1:], cells, strict=True)}
        for name, *cells in lines
    }
