"""Whether the files that a run reads define what the calling program has in memory.

A reward function of a Python file is named by its file, and the run reads the file again. Without this check, a run
would silently use other code or constants where the module was edited after its import, or the calling program set its
constants. The check reads the text of the files and runs nothing: it compares the functions, and the
constants that are literals.
"""

from __future__ import annotations

import ast
import dis
import inspect
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from math import isfinite
from types import CodeType, FunctionType, ModuleType
from typing import Any

from obverse import python_files
from obverse.python_files import Code

CALL_DETAILS = {"PUSH_NULL", "PRECALL", "EXTENDED_ARG"}  # instructions that only some forms of an equal call have
SETS_GLOBAL = ("STORE_GLOBAL", "DELETE_GLOBAL")
MOST_CHARACTERS = 60  # of a value in a message


class Definitions:
    """The functions and constants at the top level of a file, and all names that it defines when it is imported."""

    def __init__(self, text: bytes) -> None:
        body = [node for node in ast.parse(text).body if not _is_guard(node)]
        self.functions = {
            node.name
            for node in body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.decorator_list
        }
        compiled = python_files.compiled(text)
        codes = [item for item in compiled.co_consts if isinstance(item, CodeType)]
        counts = Counter(item.co_name for item in codes)  # of several, a condition chooses one
        self.codes = {item.co_name: item for item in codes if counts[item.co_name] == 1}
        uses = [part for node in body for part in _outside_functions(node)]
        self.names = {*_bound(uses), *self.functions}
        self.constants: dict[str, Any] = {}
        mentions = [part.id for part in uses if isinstance(part, ast.Name)]
        for node in body:
            if not isinstance(node, ast.Assign | ast.AnnAssign):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            name = getattr(targets[0], "id", "")
            stores = [part for part in uses if _names(part, name) and isinstance(part.ctx, ast.Store)]
            if len(targets) != 1 or len(stores) != 1:
                continue
            try:
                value = _value(node.value)
            except (ValueError, TypeError):  # no literal, or an unhashable key
                continue
            # a container that is empty, or that other statements name, is one that the program fills
            if not isinstance(value, dict | list | set) or (value and mentions.count(name) == 1):
                self.constants[name] = value

    @classmethod
    def of(cls, text: bytes) -> Definitions:
        """The definitions of a text; none where it is not Python, which loading the file reports."""
        try:
            return cls(text)
        except (SyntaxError, ValueError):
            return cls(b"")


def difference(function: FunctionType, name: str, code: Code, main: ModuleType | None) -> str | None:
    """Return how a function, or what it uses of the user's files, differs from the files; None for no difference.

    Args:
        function: The function in memory.
        name: Its name in the first file of `code`.
        code: The file that the run will read, with the user's modules that it imports.
        main: The module in memory of the first file; None for a file that was written for the function.
    """
    modules = [
        (source.path, Definitions.of(source.text), module)
        for source in code.sources
        if source.text is not None
        and isinstance(module := sys.modules.get(source.module) if source.module else main, ModuleType)
    ]
    pending, reachable, set_names = [name, *names_in(function.__code__)], set[str](), set[str]()
    set_names |= {*_set_names(function.__code__)}
    constants: dict[str, tuple[str, Any, Any]] = {}
    while pending:
        used = pending.pop()
        if used in reachable:
            continue
        reachable.add(used)
        for path, definitions, module in modules:
            value = vars(module).get(used)
            if used in definitions.constants:
                constants[used] = (path, definitions.constants[used], value)
            if used in definitions.functions and used in definitions.codes:
                if not _has_code(value, definitions.codes[used]):
                    return f"{path} defines another {used} than the one in memory: reload {module.__name__}"
                pending += names_in(definitions.codes[used])
                set_names |= {*_set_names(definitions.codes[used])}
    for used, (path, stored, value) in constants.items():
        if used not in set_names and expression(stored) != expression(value):  # a function that sets it has it as state
            short = [repr(item)[:MOST_CHARACTERS] for item in (value, stored)]
            return f"{used} is {short[0]} in memory and {short[1]} in {path}, which the run reads"
    return None


def defines(text: bytes, function: FunctionType) -> bool:
    """Whether importing a script defines a function and every global name that it reads, as they are in memory.

    The statements under `if __name__ == "__main__":`, and functions that it calls, may have changed what they name.
    """
    names = Definitions.of(text).names - (
        {*_changed_later(ast.parse(text), function)} - {*_set_names(function.__code__)}
    )
    used = {item for item in names_in(function.__code__) if item in function.__globals__}
    return function.__name__ in names and used <= names


def _changed_later(tree: ast.Module, function: FunctionType) -> Iterator[str]:
    """The global names that a script sets, or changes in place, after or outside its import."""
    for node in tree.body:
        for part in ast.walk(node):
            if isinstance(part, ast.FunctionDef) and part.name != function.__name__:
                yield from (name for item in ast.walk(part) if isinstance(item, ast.Global) for name in item.names)
                yield from _set_parts(part)
        if _is_guard(node):
            yield from _bound([*ast.walk(node)])
            yield from _set_parts(node)


def _set_parts(node: ast.AST) -> Iterator[str]:
    """The names of the objects that have an attribute or item set by a statement."""
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute | ast.Subscript) and isinstance(part.ctx, ast.Store):
            root: ast.expr = part
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            if isinstance(root, ast.Name):
                yield root.id


def are_equal(first: FunctionType, second: FunctionType) -> bool:
    """Whether two functions have equal byte code, defaults, attributes and values of enclosing functions."""
    closures = [[cell.cell_contents for cell in function.__closure__ or ()] for function in (first, second)]
    try:
        return bool(
            instructions_of(first.__code__) == instructions_of(second.__code__)
            and (first.__defaults__, first.__kwdefaults__) == (second.__defaults__, second.__kwdefaults__)
            and vars(first) == vars(second)
            and closures[0] == closures[1]
        )
    except (ValueError, RuntimeError):  # arrays and tensors, which cannot be compared as a whole
        return False


def instructions_of(code: CodeType) -> tuple[Any, ...]:
    """What a function computes: its instructions with their arguments, and which of them handle exceptions.

    A call of a module's function is compiled in another way where the module is imported in the same file, so that
    instructions which differ only in this are taken as equal.
    """
    instructions = list(dis.get_instructions(code))
    offsets = [item.offset for item in instructions if item.opname not in CALL_DETAILS]
    jumps = {*dis.hasjrel, *dis.hasjabs}
    steps = []
    for item in instructions:
        value = bisect_left(offsets, item.argval) if item.opcode in jumps else item.argval
        value = instructions_of(value) if isinstance(value, CodeType) else (type(value), value)
        if item.opname not in CALL_DETAILS:
            steps.append(("LOAD_ATTR" if item.opname == "LOAD_METHOD" else item.opname, value))
    handlers = [
        (*(bisect_left(offsets, offset) for offset in (entry.start, entry.end, entry.target)), entry.depth, entry.lasti)
        for entry in vars(dis.Bytecode(code)).get("exception_entries", ())
    ]
    variables = (code.co_varnames, code.co_freevars, code.co_cellvars)
    return steps, handlers, variables, (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)


def expression(value: Any) -> str | None:
    """Return an expression of a value: numbers, texts, and containers of them; None for any other value.

    It is the same in every process: a set is written in the order of its items' texts.
    """
    try:
        return _expression(value)
    except RecursionError:  # a container that contains itself
        return None


def _expression(value: Any) -> str | None:
    if isinstance(value, float):
        if type(value) is not float or value != value:
            return None
        return repr(value) if isfinite(value) else f"float({str(value)!r})"
    if type(value) in (list, tuple, set, frozenset):
        items = [_expression(item) for item in value]
        if None in items:
            return None
        if type(value) in (list, tuple):
            texts = ", ".join(map(str, items))
            return f"[{texts}]" if type(value) is list else f"({texts}{',' if len(items) == 1 else ''})"
        texts = ", ".join(sorted(map(str, items)))
        return ("{" + texts + "}" if items else "set()") if type(value) is set else f"frozenset([{texts}])"
    if type(value) is dict:
        pairs = [(_expression(key), _expression(item)) for key, item in value.items()]
        are_literal = all(None not in pair for pair in pairs)
        return "{" + ", ".join(f"{key}: {item}" for key, item in pairs) + "}" if are_literal else None
    return repr(value) if value is None or type(value) in (bool, int, str, bytes) else None


def names_in(code: CodeType) -> Iterator[str]:
    """The names of globals and attributes that a function and the functions inside it use."""
    yield from code.co_names
    for item in code.co_consts:
        if isinstance(item, CodeType):
            yield from names_in(item)


def _set_names(code: CodeType) -> Iterator[str]:
    """The global names that a function and the functions inside it set."""
    yield from (str(item.argval) for item in dis.get_instructions(code) if item.opname in SETS_GLOBAL)
    for item in code.co_consts:
        if isinstance(item, CodeType):
            yield from _set_names(item)


def _has_code(value: Any, code: CodeType) -> bool:
    """Whether a function in memory has the code of a file. One that a test runner or a decorator changed counts."""
    function = inspect.unwrap(value) if callable(value) else value
    if not isinstance(function, FunctionType):
        return value is not None
    if function.__code__.co_name != code.co_name or any(name.startswith("@py") for name in names_in(function.__code__)):
        return True
    return instructions_of(function.__code__) == instructions_of(code)


def _is_guard(node: ast.stmt) -> bool:
    """Whether a statement is `if __name__ == "__main__":`."""
    return isinstance(node, ast.If) and any(_names(part, "__name__") for part in ast.walk(node.test))


def _outside_functions(node: ast.AST) -> Iterator[Any]:
    """The parts of a statement that run when the file is imported."""
    yield node
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        for part in ast.iter_child_nodes(node):
            yield from _outside_functions(part)


def _bound(parts: list[Any]) -> Iterator[str]:
    """The names that parts of statements define."""
    for part in parts:
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id
        elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield part.name
        elif isinstance(part, ast.alias):
            yield part.asname or part.name.partition(".")[0]


def _names(part: ast.AST, name: str) -> bool:
    return isinstance(part, ast.Name) and part.id == name


def _value(node: ast.expr | None) -> Any:
    """The value of a literal. Raises ValueError for any other expression."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        items = [_value(item) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items) if isinstance(node, ast.Tuple) else set(items)
    if isinstance(node, ast.Dict):
        return {_value(key): _value(item) for key, item in zip(node.keys, node.values, strict=True)}
    raise ValueError("no literal")
