"""Functions of the calling program as Python files, so that worker processes and resumed runs have them.

The file has the source of the function, and the functions, constants and imports of the main program that it uses. It
is loaded, and its functions must have the byte code, the defaults and the constants of those in memory; a function for
which this cannot be shown is refused. Nothing is pickled.
"""

from __future__ import annotations

import ast
import dis
import hashlib
import inspect
import re
import sys
import textwrap
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from obverse import python_files

MAIN = "__main__"
LAMBDA = "<lambda>"
CALL_DETAILS = {"PUSH_NULL", "PRECALL", "EXTENDED_ARG"}  # instructions that only some forms of an equal call have
ADVICE = "move it to the top level of a Python file and give it as path/to/file.py:function"


class NotWritableError(ValueError):
    """A function that cannot be written to a file; the message is the reason."""


class FunctionFile(NamedTuple):
    """A function as an option names it; with `text`, `file` is a file to be written into the run folder."""

    file: str  # a path, a file name, or the name of a built-in verifier
    function: str = ""
    text: str = ""

    def spec(self, folder: Path) -> str:
        """The function as an option, once its file is in `folder`."""
        file = str(folder / self.file) if self.text else self.file
        return f"{file}:{self.function}" if self.function else file


def write_source(function: FunctionType | BuiltinFunctionType, kind: str, name: str = "") -> FunctionFile:
    """Return a function as a file of its source; `kind` is `reward` or `method`, `name` replaces the function's.

    Raises NotWritableError if the file cannot be shown to define an equal function.
    """
    if not isinstance(function, FunctionType):
        raise NotWritableError("it has no Python source")
    name = name or (kind if function.__name__ == LAMBDA else function.__name__)
    source = Source()
    source.add_function(name, function)
    text = source.text()
    _require_equal(text, source)
    return named(text, kind, name)


def imported(function: FunctionType | BuiltinFunctionType, kind: str) -> FunctionFile:
    """Return a function of an installed package, or of one with relative imports, as a file that imports it."""
    return named(f"\nfrom {function.__module__} import {function.__name__}\n", kind, function.__name__)


def named(text: str, kind: str, function: str) -> FunctionFile:
    """Return a file, named by the hash of its text, with a docstring."""
    docstring = f'"""The {kind} function {function} of a call of obverse."""'
    text = f"{docstring}\n\nfrom __future__ import annotations\n{text}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return FunctionFile(f"{kind}-{digest[:12]}.py", function, text)


class Source:
    """The source of a function, and of the functions, constants and imports of the main program that it uses."""

    def __init__(self) -> None:
        self.imports: dict[str, str] = {}  # statements by the name that they define
        self.constants: dict[str, str] = {}
        self.functions: dict[str, str] = {}
        self.values: dict[str, Any] = {}  # by name, of all of these

    def text(self) -> str:
        """The statements in an order in which every name is defined before a default or a constant reads it."""
        imports = "\n".join(sorted(set(self.imports.values())))
        blocks = ["\n".join(self.constants.values()), *self.functions.values()]
        return (f"\n{imports}\n" if imports else "") + "".join(f"\n\n{block}\n" for block in blocks if block)

    def add_function(self, name: str, function: FunctionType) -> None:
        """Add a function under `name`, after everything that it uses. Raises NotWritableError."""
        self.values[name] = function
        definition, header = definition_of(function)
        for used in sorted({*_globals(function.__code__), *header}):
            if used in function.__globals__ and used not in self.values:
                self.add_value(used, function.__globals__[used])
            elif used in function.__globals__ and self.values[used] is not function.__globals__[used]:
                raise NotWritableError(f"two values are called {used}")
        self.functions[name] = _in_closure(name, definition, function)

    def add_value(self, name: str, value: Any) -> None:
        """Add a global name that a function reads."""
        if name.startswith("__"):
            raise NotWritableError(f"it reads {name}")
        if isinstance(value, ModuleType):
            self.imports[name] = f"import {value.__name__}" + (f" as {name}" if value.__name__ != name else "")
            if value.__name__ == MAIN:
                raise NotWritableError("it uses the main program as a module")
        elif (statement := _import_of(name, value)) is not None:
            self.imports[name] = statement
        elif isinstance(value, FunctionType):
            return self.add_function(name, value)
        elif isinstance(value, re.Pattern):
            self.imports["re"] = "import re"
            flags = value.flags & ~re.UNICODE.value if isinstance(value.pattern, str) else value.flags
            self.constants[name] = f"{name} = re.compile({value.pattern!r}{f', {flags}' if flags else ''})"
        elif (expression := _expression(value)) is not None:
            self.constants[name] = f"{name} = {expression}"
        else:
            raise NotWritableError(
                f"it uses {name}, of the type {type(value).__name__}, which cannot be written to a file"
            )
        self.values[name] = value
        return None


def definition_of(function: FunctionType) -> tuple[str, set[str]]:
    """The source of a function without indentation, and the names that its defaults and annotations read.

    Raises NotWritableError if its source is not available, or not all of it.
    """
    try:
        text = "".join(inspect.findsource(function.__code__)[0])
        tree = ast.parse(text)
    except (OSError, TypeError, SyntaxError):
        raise NotWritableError("its source is not available") from None
    node = _definition(tree, function)
    if isinstance(node, ast.Lambda):
        return ast.unparse(node), _names(*_defaults(node.args))
    if node.decorator_list:
        raise NotWritableError("it has decorators")
    segment = ast.get_source_segment(text, node) or ""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    annotations = _names(*filter(None, [node.returns, *(argument.annotation for argument in arguments)]))
    readable = {name for name in annotations if _import_of(name, function.__globals__.get(name)) is not None}
    readable |= {name for name in annotations if isinstance(function.__globals__.get(name), ModuleType)}
    return textwrap.dedent(" " * node.col_offset + segment), _names(*_defaults(node.args)) | readable


def _definition(tree: ast.Module, function: FunctionType) -> ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda:
    """The definition of a function in the file or cell that it is from."""
    code = function.__code__
    if code.co_name != LAMBDA:
        named = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == code.co_name
        ]
        for node in named:
            if code.co_firstlineno in (node.lineno, *(decorator.lineno for decorator in node.decorator_list)):
                return node
    spans = [span for span in code.co_positions() if None not in span and span[2:] != (0, 0)]
    lambdas = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda) and _covers(node.body, spans)]
    if code.co_name != LAMBDA or not lambdas:
        raise NotWritableError("its source is not available")
    return max(lambdas, key=lambda node: (node.lineno, node.col_offset))  # the innermost


def _covers(node: ast.expr, spans: Sequence[Any]) -> bool:
    """Whether an expression contains all instructions, by their (line, end line, column, end column)."""
    start, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
    return bool(spans) and all(start <= (span[0], span[2]) and (span[1], span[3]) <= end for span in spans)


def _in_closure(name: str, definition: str, function: FunctionType) -> str:
    """The definition under `name`; variables of an enclosing function become variables of a function around it."""
    if function.__name__ == LAMBDA:
        definition = f"{name} = {definition}  # noqa: E731"
    elif name != function.__name__:
        definition += f"\n\n\n{name} = {function.__name__}"
    if not function.__closure__:
        return definition
    variables = dict(zip(function.__code__.co_freevars, function.__closure__, strict=True))
    lines = [f"def _make_{name}():"]
    for variable, cell in variables.items():
        try:
            value = cell.cell_contents
        except ValueError:
            raise NotWritableError(f"it uses {variable} before it has a value") from None
        if (expression := _expression(value)) is None:
            raise NotWritableError(f"it uses {variable} of the function around it, of the type {type(value).__name__}")
        lines.append(f"    {variable} = {expression}")
    lines += ["", textwrap.indent(definition, "    "), "", f"    return {name}"]
    return "\n".join(lines) + f"\n\n\n{name} = _make_{name}()"


def _require_equal(text: str, source: Source) -> None:
    """Load the file in this process; NotWritableError where a function or constant is not that of the main program."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "reward.py"
        path.write_text(f"from __future__ import annotations\n{text}", encoding="utf-8")
        code = python_files.read(path)
        try:
            module = python_files.load(code)
        except Exception as error:  # any exception of the user's imports; the message names it
            raise NotWritableError(f"a file with its source raises {type(error).__name__}: {error}") from error
        python_files.unload(code)
    for name in source.functions:
        if not _are_equal(getattr(module, name), source.values[name]):
            raise NotWritableError(f"{name} is not what its source gives")
    for name in source.constants:
        if getattr(module, name) != source.values[name]:
            raise NotWritableError(f"{name} cannot be written to a file")


def _are_equal(first: FunctionType, second: FunctionType) -> bool:
    """Whether two functions have equal byte code, defaults and values of enclosing functions."""
    closures = [[cell.cell_contents for cell in function.__closure__ or ()] for function in (first, second)]
    return (
        _code(first.__code__) == _code(second.__code__)
        and (first.__defaults__, first.__kwdefaults__) == (second.__defaults__, second.__kwdefaults__)
        and closures[0] == closures[1]
    )


def _code(code: CodeType) -> tuple[Any, ...]:
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
        value = _code(value) if isinstance(value, CodeType) else (type(value), value)
        if item.opname not in CALL_DETAILS:
            steps.append(("LOAD_ATTR" if item.opname == "LOAD_METHOD" else item.opname, value))
    handlers = [
        (*(bisect_left(offsets, offset) for offset in (entry.start, entry.end, entry.target)), entry.depth, entry.lasti)
        for entry in vars(dis.Bytecode(code)).get("exception_entries", ())
    ]
    variables = (code.co_varnames, code.co_freevars, code.co_cellvars)
    return steps, handlers, variables, (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)


def _globals(code: CodeType) -> Iterator[str]:
    """The global names that a function and the functions inside it read. Raises NotWritableError if it sets one."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            raise NotWritableError(f"it sets the global variable {instruction.argval}")
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield str(instruction.argval)
    for item in code.co_consts:
        if isinstance(item, CodeType):
            yield from _globals(item)


def _defaults(arguments: ast.arguments) -> list[ast.expr]:
    return [*arguments.defaults, *filter(None, arguments.kw_defaults)]


def _names(*nodes: ast.expr) -> set[str]:
    """The names that expressions read."""
    return {part.id for node in nodes for part in ast.walk(node) if isinstance(part, ast.Name)}


def _import_of(name: str, value: Any) -> str | None:
    """The statement that imports a function or class of a module; None for a value that no module has."""
    origin, own_name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if not isinstance(origin, str) or origin == MAIN or not isinstance(own_name, str) or not own_name.isidentifier():
        return None
    if getattr(sys.modules.get(origin), own_name, None) is not value:
        return None
    return f"from {origin} import {own_name}" + (f" as {name}" if name != own_name else "")


def _expression(value: Any) -> str | None:
    """An expression of a value: numbers, texts, and containers of them; None for any other value.

    It is the same in every process: a set is written in the order of its items' texts.
    """
    if isinstance(value, float):
        return repr(value) if type(value) is float and isfinite(value) else None
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


def is_member(function: FunctionType | BuiltinFunctionType, module: ModuleType | None) -> bool:
    """Whether a module has the function under its name."""
    return module is not None and getattr(module, function.__name__, None) is function


def path_of(function: FunctionType | BuiltinFunctionType) -> str | None:
    """The Python file that defines a function; None without one."""
    try:
        path = inspect.getsourcefile(function)
    except TypeError:
        return None
    return path if path and Path(path).is_file() else None


def name_of(value: Any) -> str:
    return str(getattr(value, "__qualname__", None) or type(value).__qualname__)
