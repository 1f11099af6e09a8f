"""Functions of the calling program as Python files, so that worker processes and resumed runs have them.

The file has the source of the function, and the functions, constants and imports of the main program that it uses. It
is loaded, and its functions must have the byte code, the defaults and the constants of those in memory; a function for
which this cannot be shown is refused. Nothing is pickled.
"""

from __future__ import annotations

import ast
import builtins
import dis
import hashlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from obverse import python_files
from obverse.api.file_equality import SETS_GLOBAL, are_equal, difference, expression
from obverse.errors import ConfigError
from obverse.python_files import Code

MAIN = "__main__"
LAMBDA = "<lambda>"
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
    try:
        text = with_docstring(source.text(), kind, name)
        code = _require_equal(text, source)
    except NotWritableError as error:
        text = with_docstring(source.text(), kind, name, has_lazy_annotations=False)
        try:  # annotations of functions inside the function are a part of its code
            code = _require_equal(text, source)
        except NotWritableError:
            raise error from None
    if changed := difference(function, name, code, None):
        raise ConfigError(f"{kind} {name}: {changed}")
    return named(text, kind, name)


def imported(function: FunctionType | BuiltinFunctionType, kind: str) -> FunctionFile:
    """Return a function of an installed package, or of one with relative imports, as a file that imports it."""
    text = f"\nfrom {function.__module__} import {function.__name__}\n"
    return named(with_docstring(text, kind, function.__name__), kind, function.__name__)


def with_docstring(text: str, kind: str, function: str, has_lazy_annotations: bool = True) -> str:
    """Return the text of a file, after a docstring; annotations are evaluated unless they are lazy."""
    docstring = f'"""The {kind} function {function} of a call of obverse."""'
    lazy = "from __future__ import annotations\n" if has_lazy_annotations else ""
    return f"{docstring}\n\n{lazy}{text}"


def named(text: str, kind: str, function: str) -> FunctionFile:
    """Return a file, named by the hash of its text."""
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
        if variables := set(_set_variables(function.__code__)) & {*function.__code__.co_freevars}:
            raise NotWritableError(f"it sets {min(variables)} of the function around it")
        for module in _submodules(definition, function.__globals__):
            self.imports[module] = f"import {module}"
        for used in sorted({*_globals(function.__code__), *header}):
            if used in function.__globals__ and used not in self.values:
                self.add_value(used, function.__globals__[used])
            elif used in function.__globals__ and self.values[used] is not function.__globals__[used]:
                raise NotWritableError(f"two values are called {used}")
        self.functions[name] = _in_closure(name, definition, function)

    def add_value(self, name: str, value: Any) -> None:
        """Add a global name that a function reads."""
        if vars(builtins).get(name) is not None and getattr(value, "__wrapped__", None) is vars(builtins)[name]:
            return None  # such as open, which IPython wraps
        if name.startswith("__"):
            raise NotWritableError(f"it reads {name}")
        if isinstance(value, ModuleType):
            self.imports[name] = f"import {value.__name__}" + (f" as {name}" if value.__name__ != name else "")
            if value.__name__ == MAIN:
                raise NotWritableError("it uses the main program as a module")
        elif (statement := _import_of(name, value)) is not None:
            self.imports[name] = statement
        elif isinstance(value, FunctionType):
            try:
                return self.add_function(name, value)
            except NotWritableError as error:
                raise NotWritableError(f"it uses {name} ({error})") from None
        elif isinstance(value, re.Pattern):
            self.imports["re"] = "import re"
            flags = value.flags & ~re.UNICODE.value if isinstance(value.pattern, str) else value.flags
            self.constants[name] = f"{name} = re.compile({value.pattern!r}{f', {flags}' if flags else ''})"
        elif (value_text := expression(value)) is not None:
            self.constants[name] = f"{name} = {value_text}"
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
        if (value_text := expression(value)) is None:
            raise NotWritableError(f"it uses {variable} of the function around it, of the type {type(value).__name__}")
        lines.append(f"    {variable} = {value_text}")
    lines += ["", textwrap.indent(definition, "    "), "", f"    return {name}"]
    return "\n".join(lines) + f"\n\n\n{name} = _make_{name}()"


def _require_equal(text: str, source: Source) -> Code:
    """Load the file in this process and return its code.

    Raises NotWritableError where a function or constant is not that of the main program.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "reward.py"
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        code = python_files.read(path)
        try:
            module = python_files.load(code)
        except Exception as error:  # any exception of the user's imports; the message names it
            raise NotWritableError(f"a file with its source raises {type(error).__name__}: {error}") from error
        python_files.unload(code)
    for name in source.functions:
        if not are_equal(getattr(module, name), source.values[name]):
            raise NotWritableError(f"{name} is not what its source gives")
    for name in source.constants:
        if getattr(module, name) != source.values[name]:
            raise NotWritableError(f"{name} cannot be written to a file")
    return code


def _globals(code: CodeType) -> Iterator[str]:
    """The global names that a function and the functions inside it read. Raises NotWritableError if it sets one."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in SETS_GLOBAL:
            raise NotWritableError(f"it sets the global variable {instruction.argval}")
        is_of_class = instruction.opname == "LOAD_NAME" and instruction.argval == "__name__"  # every class reads it
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") and not is_of_class:
            yield str(instruction.argval)
    for item in code.co_consts:
        if isinstance(item, CodeType):
            yield from _globals(item)


def _set_variables(code: CodeType) -> Iterator[str]:
    """The variables of enclosing functions, or for functions inside it, that a function sets."""
    yield from (
        str(item.argval) for item in dis.get_instructions(code) if item.opname in ("STORE_DEREF", "DELETE_DEREF")
    )
    for item in code.co_consts:
        if isinstance(item, CodeType):
            yield from set(_set_variables(item)) & {*item.co_freevars}


def _submodules(definition: str, values: Mapping[str, Any]) -> Iterator[str]:
    """The modules that a definition reaches as attributes of others, which `import package` alone does not load."""
    for node in ast.walk(ast.parse(definition)):
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.insert(0, node.attr)
            node = node.value
        module = values.get(node.id) if names and isinstance(node, ast.Name) else None
        while names and isinstance(module, ModuleType):
            module = getattr(module, names.pop(0), None)
            if isinstance(module, ModuleType) and "." in module.__name__ and sys.modules.get(module.__name__) is module:
                yield module.__name__


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
