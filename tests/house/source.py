"""The package's source as data, for the tests of the house: every module, its tree, what it imports and where."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "obverse"
FOLDERS = ("obverse", "tests", "examples", "recipes", "bench", "docs")
LOADERS = {"import_module", "__import__", "spec_from_file_location"}  # imports that are written as calls


@dataclass(frozen=True)
class Module:
    """One file of the package; `name` is dotted without it: "estimator.parts.masks", "" for the package itself."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def package(self) -> str:
        """The package that holds it; "" for the modules beside the packages."""
        first = self.name.partition(".")[0]
        return first if (PACKAGE / first).is_dir() else ""

    @property
    def docstring(self) -> str:
        """The first line of its docstring."""
        return (ast.get_docstring(self.tree) or "").partition("\n")[0]


@dataclass(frozen=True)
class Import:
    target: str  # dotted, as written: "obverse.estimator.parts.masks", "torch"; or the name of a loader
    line: int
    hidden: bool = False  # inside a function
    typing: bool = False  # under TYPE_CHECKING: not there at run time


@cache
def files(*folders: str) -> tuple[Path, ...]:
    """Every Python file of these folders of the repository, of all that hold code without a name."""
    return tuple(sorted(path for folder in folders or FOLDERS for path in (ROOT / folder).rglob("*.py")))


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def modules() -> dict[str, Module]:
    """Every module of the package by its dotted name."""
    modules_by_name: dict[str, Module] = {}
    for path in files("obverse"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules_by_name[name] = Module(name, path, tree(path))
    return modules_by_name


@cache
def imports(name: str) -> tuple[Import, ...]:
    """Everything that the module imports, wherever and however."""
    return tuple(_walk(modules()[name].tree, hidden=False, typing=False))


def inside(target: str) -> str | None:
    """The module of the package that an imported name stands for; None for other libraries' names."""
    if target.partition(".")[0] != "obverse":
        return None
    name = target.removeprefix("obverse").removeprefix(".")
    while name not in modules():  # obverse.types.Problem -> types
        name = name.rpartition(".")[0]
    return name


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def docstrings(tree: ast.Module) -> set[ast.Constant]:
    """The constants that are docstrings."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    first = (node.body[0] for node in ast.walk(tree) if isinstance(node, owners) and node.body)
    return {
        node.value
        for node in first
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


def _walk(node: ast.AST, *, hidden: bool, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, hidden, typing) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: imports are absolute here"
            yield from (Import(f"{child.module}.{alias.name}", child.lineno, hidden, typing) for alias in child.names)
        elif isinstance(child, ast.Call):
            function = child.func
            called = getattr(function, "id", None) or getattr(function, "attr", None)
            if called in LOADERS:
                yield Import(called, child.lineno, hidden=True, typing=typing)
        yield from _walk(
            child,
            hidden=hidden or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda),
            typing=typing or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)),
        )
