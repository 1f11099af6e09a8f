"""Size limits kept by a machine: files, functions and the shipped assets stay small."""

from __future__ import annotations

import ast

import pytest
from house.source import PACKAGE, ROOT, files, functions, modules, tree

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60  # the docstring not counted: that one may be long
MAX_ASSET_BYTES = 3_000_000


def num_lines(text: str) -> int:
    return len(text.splitlines())


def function_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function from `def` to its end, without its docstring."""
    docstring = ast.get_docstring(function, clean=False)
    length = 0 if docstring is None else function.body[0].end_lineno - function.body[0].lineno + 1  # type: ignore[operator]
    return function.end_lineno - function.lineno + 1 - length  # type: ignore[operator]


def test_files() -> None:
    sizes = {path: num_lines(path.read_text(encoding="utf-8")) for path in files()}
    assert len(sizes) > 50
    long = [f"{path.relative_to(ROOT)}: {size} lines" for path, size in sizes.items() if size > MAX_FILE_LINES]
    assert not long, f"more than {MAX_FILE_LINES} lines:\n" + "\n".join(long)


def test_functions() -> None:
    sizes = [
        (module, function, function_lines(function))
        for module in modules().values()
        for function in functions(module.tree)
    ]
    assert len(sizes) > 100
    long = [
        f"{module.path.relative_to(ROOT)}:{function.lineno}: {function.name} has {size} lines"
        for module, function, size in sizes
        if size > MAX_FUNCTION_LINES
    ]
    assert not long, f"more than {MAX_FUNCTION_LINES} lines:\n" + "\n".join(long)


def test_a_docstring_costs_nothing() -> None:
    module = ast.parse('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n')
    assert [function_lines(function) for function in functions(module)] == [2]


def test_assets() -> None:
    size = sum(path.stat().st_size for path in (PACKAGE / "assets").rglob("*") if path.is_file())
    assert 0 < size <= MAX_ASSET_BYTES


def names_of_tests(module: ast.Module) -> list[str]:
    """The tests of a file as pytest finds them: functions test_*, and those of classes Test*."""
    names = [node.name for node in module.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return names + [
        f"{owner.name}.{node.name}"
        for owner in module.body
        if isinstance(owner, ast.ClassDef) and owner.name.startswith("Test")
        for node in owner.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


@pytest.mark.slow
def test_tests_are_collected() -> None:
    """Every function called test_* is in a file that pytest collects, once; every such file has one."""
    names = {path: names_of_tests(tree(path)) for path in files("tests")}
    elsewhere = [path.name for path in names if bool(names[path]) != path.name.startswith("test_")]
    assert not elsewhere, f"tests are in files called test_*.py, and only there: {elsewhere}"
    hidden = [f"{path.name}: {name}" for path in names for name in {*names[path]} if names[path].count(name) > 1]
    assert not hidden, f"the second of two tests with one name hides the first: {hidden}"
