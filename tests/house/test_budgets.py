"""Budgets kept by a machine: files, functions and the package stay small enough to be read."""

from __future__ import annotations

import ast
import io
import tokenize

import pytest
from house.source import PACKAGE, ROOT, functions, modules

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60  # the docstring not counted: that one may be long
# Lines of code: docstrings, comments and blank lines are what a reader wants more of. Each wing of the house has a
# budget of its own, the engine is the rest; methods and parts grow with what is published.
MAX_ENGINE_LINES = 8_970
WINGS = {
    "verifiers": 1_500,
    "analysis": 2_500,
    "report": 2_000,
    "sampling": 1_200,
    "dist": 1_100,
    "plan": 600,
    "adapters": 400,
}
PAPERS = ("methods", "parts")
MAX_ASSET_BYTES = 3_000_000


def num_lines(text: str) -> int:
    return len(text.splitlines())


def function_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function from `def` to its end, without its docstring."""
    docstring = ast.get_docstring(function, clean=False)
    own = 0 if docstring is None else function.body[0].end_lineno - function.body[0].lineno + 1  # type: ignore[operator]
    return function.end_lineno - function.lineno + 1 - own  # type: ignore[operator]


def test_files() -> None:
    folders = ("obverse", "tests", "examples", "recipes", "bench")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 50
    sizes = {path: num_lines(path.read_text(encoding="utf-8")) for path in files}
    long = [f"{path.relative_to(ROOT)}: {size} lines" for path, size in sizes.items() if size > MAX_FILE_LINES]
    assert not long, f"more than {MAX_FILE_LINES} lines:\n" + "\n".join(long)


def test_functions() -> None:
    sizes = [(module, each, function_lines(each)) for module in modules().values() for each in functions(module.tree)]
    assert len(sizes) > 100
    long = [
        f"{module.path.relative_to(ROOT)}:{function.lineno}: {function.name} has {size} lines"
        for module, function, size in sizes
        if size > MAX_FUNCTION_LINES
    ]
    assert not long, f"more than {MAX_FUNCTION_LINES} lines:\n" + "\n".join(long)


def test_a_docstring_costs_nothing() -> None:
    tree = ast.parse('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n')
    assert [function_lines(function) for function in functions(tree)] == [2]


def code_lines(source: str) -> int:
    """Lines that hold code: no docstrings, no comments, no blank lines."""
    tree, silent = (
        ast.parse(source),
        {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT},
    )
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        line
        for node in ast.walk(tree)
        if isinstance(node, documented) and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    words = [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in silent]
    lines = {line for token in words if token.string for line in range(token.start[0], token.end[0] + 1)}
    return len(lines - docstrings)


def test_only_code_counts() -> None:
    source = '"""A module.\n\nMore.\n"""\n\n# why\nx = (\n    1\n)\n\ndef f():\n    """Doc."""\n    return x\n'
    assert code_lines(source) == 5


def test_the_engine_and_the_wings() -> None:
    totals = dict.fromkeys(("engine", *WINGS), 0)
    for module in modules().values():
        room = module.path.relative_to(PACKAGE).parts[0]
        if room not in PAPERS:
            totals[room if room in WINGS else "engine"] += code_lines(module.path.read_text(encoding="utf-8"))
    allowed = {"engine": MAX_ENGINE_LINES, **WINGS}
    assert totals["engine"] > 0
    over = {name: total for name, total in totals.items() if total > allowed[name]}
    assert not over, f"lines of code: {over}, allowed are {allowed}"


def test_assets() -> None:
    size = sum(path.stat().st_size for path in (PACKAGE / "assets").rglob("*") if path.is_file())
    assert 0 < size <= MAX_ASSET_BYTES


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.name)
def test_tests_are_found(path) -> None:
    """Every function called test_* stands in a file that pytest collects, once; every such file has one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    names += [
        f"{owner.name}.{node.name}"
        for owner in tree.body
        if isinstance(owner, ast.ClassDef) and owner.name.startswith("Test")
        for node in owner.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert bool(names) == path.name.startswith("test_"), "tests stand in test_*.py, and only there"
    assert len(names) == len(set(names)), "the second of two tests of one name hides the first"
