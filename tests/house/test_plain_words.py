"""Names say what a value is, and prose is that of the field: pronoun-like names and narrators' words stay rare."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator

from house.source import files, tree

PRONOUNS = frozenset({"found", "each", "own", "mine", "made", "told", "known", "asked", "said"})
NARRATED = re.compile(r"\b(?:nobody|whoever|whose|told|said|somebody)\b", re.IGNORECASE)

MAX_PRONOUN_SHARE = 0.001
MAX_NARRATED = 1.5


def assigned_names(module: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every target of an assignment or a loop, every parameter and every attribute that is set."""
    for node in ast.walk(module):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg) and node.arg not in ("self", "cls"):
            yield node.lineno, node.arg


def worst(lines: list[str]) -> str:
    """The files with the most of them."""
    counts = Counter(line.partition(":")[0] for line in lines)
    return "\n".join(f"{number:5} {path}" for path, number in counts.most_common(12))


def test_names_say_what_a_value_is() -> None:
    names = [(path, *name) for path in files("obverse") for name in assigned_names(tree(path))]
    pronouns = [f"{path}:{line}: {name}" for path, line, name in names if name in PRONOUNS]
    share = len(pronouns) / len(names)
    assert share <= MAX_PRONOUN_SHARE, f"{share:.4f} of {len(names)} names:\n{worst(pronouns)}"


def test_prose_does_not_narrate() -> None:
    lines = [(path, *line) for path in files("obverse") for line in enumerate(path.read_text().splitlines(), 1)]
    words = [f"{path}:{number}: {word}" for path, number, line in lines for word in NARRATED.findall(line)]
    rate = 1000 * len(words) / len(lines)
    assert rate <= MAX_NARRATED, f"{rate:.2f} in 1,000 of {len(lines)} lines:\n{worst(words)}"


def test_pronouns_and_narration_are_counted() -> None:
    code = "def f(mine, rows=1):\n    each = 2\n    for found, row in x:\n        row.told = found"
    assert [name for _, name in assigned_names(ast.parse(code)) if name in PRONOUNS] == [
        "mine",
        "each",
        "found",
        "told",
    ]
    assert NARRATED.findall("Nobody said whose toldness it is") == ["Nobody", "said", "whose"]
