"""JSON Lines end at line feeds alone: no `splitlines` of text, which breaks at U+2028 and others, gives them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from house.source import files, tree


def broken(module: ast.AST) -> Iterator[int]:
    """Lines of code where a `for` or a comprehension over a call of `splitlines` has `json.loads` inside."""
    for node in ast.walk(module):
        sources = [loop.iter for loop in getattr(node, "generators", [])]
        sources += [node.iter] if isinstance(node, ast.For) else []
        if any(calls(source, "splitlines") for source in sources) and calls(node, "loads"):
            yield node.lineno  # type: ignore[attr-defined]


def calls(node: ast.AST, name: str) -> bool:
    return any(isinstance(child, ast.Attribute) and child.attr == name for child in ast.walk(node))


def test_json_lines_are_cut_at_line_feeds() -> None:
    paths = files("obverse", "recipes")
    assert not [f"{path}:{line}" for path in paths for line in broken(tree(path))]


def test_a_reader_that_cuts_elsewhere_is_seen() -> None:
    code = "x = [json.loads(y) for y in text.splitlines()]\nfor n, y in enumerate(x.splitlines()):\n    json.loads(y)"
    assert sorted(broken(ast.parse(code))) == [1, 2]
