"""Size limits kept by a machine: files, functions and the shipped assets stay small."""

from __future__ import annotations

import ast

import pytest
from house.source import PACKAGE, ROOT, functions, modules

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60  # the docstring not counted: that one may be long
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
