"""User code: a Python file and the user's modules that it imports, read once, hashed, and loaded from the text read.

Verifiers and methods may be files of the user. The code that runs is the text that was read at the start, in this
process and in every worker process, even if the files are edited meanwhile; equal sha256 means equal code.

Covered: the file, and every module that its import statements (inside functions too, and `import_module("name")` with
a literal name) reach, if it is Python source in the file's folder or in a folder of `sys.path` that holds no installed
packages. A module is searched on `sys.path` first, then beside the file. Not covered: installed and compiled packages,
names that are computed at run time, data files that the code opens.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import inspect
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.abc import InspectLoader, MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from traceback import extract_tb
from types import CodeType, ModuleType
from typing import Any, cast

from obverse.errors import ConfigError

PREFIX = "obverse_user_"  # of the names that users' files get in sys.modules
MAIN = ""  # the module name of the user's file among its sources


@dataclass(frozen=True)
class Source:
    """One file of user code; `text` is None for a namespace package, a folder of modules without `__init__.py`."""

    module: str  # the name it is imported by
    path: str
    text: bytes | None
    is_package: bool = False


@dataclass(frozen=True)
class Code:
    """A user's file and the user's modules that it imports, as of the time they were read."""

    path: str
    sources: tuple[Source, ...]  # the file itself first
    sha256: str  # of all names and texts, not of paths

    def __hash__(self) -> int:
        return hash((self.path, self.sha256))

    @property
    def module(self) -> str:
        """The name of the file's module in `sys.modules`."""
        return f"{PREFIX}{hashlib.sha256(f'{self.path} {self.sha256}'.encode()).hexdigest()[:16]}"


# Reading


def read(path: str | Path) -> Code:
    """Read the user's file and the user's modules that it imports; inside `read_once` the result of the first call.

    Raises OSError for a file that cannot be read. A syntax error is raised by `load` only.

    Example:
        read("rewards.py").sha256 == read("copy/of/rewards.py").sha256
    """
    absolute = str(Path(path).expanduser().absolute())
    if not _scopes:
        return _read(absolute)
    if absolute not in _codes:
        _codes[absolute] = _read(absolute)
    return _codes[absolute]


def read_named(kind: str, name: str, path: str) -> Code:
    """`read` for a method or verifier (`kind`) that the user named `name`; ConfigError if the file cannot be read."""
    try:
        return read(path)
    except FileNotFoundError:
        raise ConfigError(f"{kind} {name!r}: there is no file {path!r}; write it as path/to/file.py:function") from None
    except OSError as error:
        raise ConfigError(f"{kind} {name!r}: {path} cannot be read: {error.strerror}") from None


def function_of(module: ModuleType, function: str, kind: str, name: str, path: str) -> Callable[..., Any]:
    """The function of a user's file that `name` names; ConfigError with the nearest name if there is none."""
    value = getattr(module, function, None)
    if callable(value):
        return cast("Callable[..., Any]", value)
    functions = [key for key, member in vars(module).items() if inspect.isfunction(member)]
    matches = difflib.get_close_matches(function, functions, n=1, cutoff=0.5)
    hint = f"did you mean {matches[0]!r}?" if matches else f"it has {', '.join(functions) or 'no functions'}"
    raise ConfigError(f"{kind} {name!r}: {path} has no function {function!r}: {hint}")


def read_text(path: str | Path) -> str:
    """Read a user's text file as UTF-8, such as a template; inside `read_once` the result of the first call.

    Raises OSError or UnicodeDecodeError.
    """
    absolute = str(Path(path).expanduser().absolute())
    if not _scopes:
        return Path(absolute).read_text(encoding="utf-8")
    if absolute not in _texts:
        _texts[absolute] = Path(absolute).read_text(encoding="utf-8")
    return _texts[absolute]


@contextmanager
def read_once() -> Iterator[None]:
    """Context manager, or decorator, in which each user file is read once: an edit takes effect in the next run only.

    Nested scopes have no effect; the outermost one counts.
    """
    global _period
    if not _scopes:
        _period += 1
        _codes.clear()
        _texts.clear()
    _scopes.append(object())
    try:
        yield
    finally:
        _scopes.pop()


def period() -> int:
    """The number of outermost scopes of `read_once` so far: caches of file contents are valid within one."""
    return _period


_scopes: list[object] = []
_codes: dict[str, Code] = {}
_texts: dict[str, str] = {}
_period = 0


def _read(absolute: str) -> Code:
    path = Path(absolute).resolve()
    folders = [*dict.fromkeys([path.parent, Path(absolute).parent])]
    sources = {MAIN: Source(MAIN, str(path), path.read_bytes())}
    pending = [sources[MAIN]]
    while pending:
        source = pending.pop()
        for name in _imports(source):
            if name not in sources and (imported := _find(name, sources, folders)):
                sources[name] = imported
                pending.append(imported)
    digest = hashlib.sha256()
    for name in sorted(sources):
        text = sources[name].text
        digest.update(f"{name}\0{hashlib.sha256(text).hexdigest() if text is not None else ''}\n".encode())
    return Code(str(path), tuple(sources.values()), digest.hexdigest())


def _imports(source: Source) -> list[str]:
    """The names of all modules that a file may import, each after the packages that contain it."""
    try:
        tree = ast.parse(source.text or b"")
    except (SyntaxError, ValueError, RecursionError):  # raised when the file is loaded
        return []
    package = source.module if source.is_package else source.module.rpartition(".")[0]
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - max(node.level - 1, 0)] if node.level else []
            base = ".".join([*filter(None, parts), *filter(None, [node.module])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in _IMPORTERS:
            literal = node.args[0] if node.args else None
            names += [literal.value] if isinstance(literal, ast.Constant) and isinstance(literal.value, str) else []
    chains = (name.split(".") for name in names if name and not name.startswith("."))
    return [*dict.fromkeys(".".join(parts[: num + 1]) for parts in chains for num in range(len(parts)))]


_IMPORTERS = {"import_module", "__import__"}


def _find(name: str, sources: dict[str, Source], folders: Sequence[Path]) -> Source | None:
    """The source of a user's module; None for one that is installed, compiled or missing."""
    package, _, last = name.rpartition(".")
    if package:
        parent = sources.get(package)
        if parent is None or not parent.is_package:
            return None
        search = [Path(parent.path).parent if parent.text is not None else Path(parent.path)]
    elif name in sys.stdlib_module_names or name == __package__:
        return None
    else:
        search = [*(Path(folder).absolute() for folder in sys.path), *folders]
    namespace: Path | None = None
    for folder in search:
        for path in (folder / last / "__init__.py", folder / f"{last}.py"):
            if path.is_file():
                is_users = not is_installed(path) or any(map(path.is_relative_to, _user_folders(folders)))
                return Source(name, str(path), path.read_bytes(), path.name == "__init__.py") if is_users else None
        if any(folder.glob(f"{last}.*so")) or any(folder.glob(f"{last}.*pyd")):
            return None
        if namespace is None and (folder / last).is_dir():
            namespace = folder / last
    is_users = namespace is not None and not is_installed(namespace)
    return Source(name, str(namespace), None, is_package=True) if is_users else None


def _user_folders(folders: Sequence[Path]) -> list[Path]:
    """The folders of the user's file, except those of installed packages."""
    return [folder for folder in folders if folder.resolve() not in _installed()]


def is_installed(path: Path) -> bool:
    """Whether a file or folder is of an installed package or of the standard library."""
    return any(map(path.resolve().is_relative_to, _installed()))


@cache
def _installed() -> tuple[Path, ...]:
    """The folders of installed packages and of the standard library."""
    names = ("purelib", "platlib", "stdlib", "platstdlib")
    folders = [sysconfig.get_path(name) for name in names] + site.getsitepackages() + [site.getusersitepackages()]
    return tuple(dict.fromkeys(Path(folder).resolve() for folder in folders if folder))


# Loading


class _Texts(MetaPathFinder, SourceLoader):  # type: ignore[misc]  # typeshed has two forms of source_to_code
    """Import finder and loader of the modules of one Code, from their texts."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self.scope = _scopes[0] if _scopes else None  # the outermost `read_once` it was created in
        self.sources = {source.module or code.module: source for source in code.sources}
        self.texts = {source.path: source.text for source in code.sources if source.text is not None}

    def leave(self) -> None:
        """Remove the finder from `sys.meta_path`, and its modules from `sys.modules`."""
        sys.meta_path.remove(self)
        for name in self.sources.keys() & sys.modules.keys():
            if self.provides(sys.modules[name]):
                del sys.modules[name]

    def has(self, source: Source) -> bool:
        """Whether it has an equal source, of the same path and text."""
        return self.sources.get(source.module) == source

    def provides(self, module: ModuleType) -> bool:
        """Whether a module was imported by this finder, or by another one from an equal source."""
        loader = getattr(module.__spec__, "loader", None)
        return isinstance(loader, _Texts) and self.has(loader.sources[module.__name__])

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        source = self.sources.get(fullname)
        if source is None:
            return None
        if source.text is None:
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [source.path]
            return spec
        return spec_from_loader(fullname, self, is_package=source.is_package)

    def get_filename(self, fullname: str) -> str:
        return self.sources[fullname].path

    def is_package(self, fullname: str) -> bool:
        return self.sources[fullname].is_package

    def get_data(self, path: str | bytes) -> bytes:
        try:
            return self.texts[str(path)]
        except KeyError:
            raise FileNotFoundError(path) from None


def load(code: Code) -> ModuleType:
    """Run the user's file, once per process, and return its module; it and its imports run the texts of `code`.

    Modules of the same names that this process has already imported are not replaced in `sys.modules`. Raises the
    errors that the file raises, and ConfigError if another file in the same `read_once` imports another module of a
    name.
    """
    if code.module in sys.modules:
        return sys.modules[code.module]
    finder = _Texts(code)
    names = {source.module for source in code.sources if source.module}
    for previous in [entry for entry in sys.meta_path if isinstance(entry, _Texts)]:
        differing = sorted(name for name in names & previous.sources.keys() if not finder.has(previous.sources[name]))
        if differing and previous.code.path != code.path and previous.scope is finder.scope is not None:
            raise ConfigError(
                f"{code.path} and {previous.code.path} import different modules that are both called {differing[0]}: "
                "rename one of them"
            )
        if differing or previous.code.path == code.path:  # of an earlier run, or an older version
            previous.leave()
    replaced = {
        name: sys.modules[name] for name in names & sys.modules.keys() if not finder.provides(sys.modules[name])
    }
    for name in replaced:
        del sys.modules[name]
    sys.meta_path.insert(0, finder)
    spec = finder.find_spec(code.module)
    assert spec is not None and spec.loader is not None
    module = sys.modules[code.module] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        finder.leave()
        raise
    finally:
        sys.modules.update(replaced)
    return module


def compiled(text: bytes) -> CodeType:
    """The byte code that importing a file with this text would run; it is compiled only. Raises SyntaxError."""
    return InspectLoader.source_to_code(text)


def unload(code: Code) -> None:
    """Remove the module of a user's file that `load` returned, and the modules that it imported from `code`."""
    sys.modules.pop(code.module, None)
    for finder in [entry for entry in sys.meta_path if isinstance(entry, _Texts) and entry.code == code]:
        finder.leave()


def load_failure(error: BaseException, code: Code) -> str:
    """The message for a user's file that cannot be loaded: the error, and the line of user code that raised it."""
    kind = "" if isinstance(error, SyntaxError | ImportError | ConfigError) else f"{type(error).__name__}: "
    return f"{kind}{error}" + _line(error, {source.path for source in code.sources})


def error_location(error: BaseException) -> str:
    """` (FILE, line N)`, the innermost line of user code in the error's traceback; "" if there is none."""
    return _line(error, {path for finder in sys.meta_path if isinstance(finder, _Texts) for path in finder.texts})


def _line(error: BaseException, paths: Set[str]) -> str:
    lines = [frame for frame in extract_tb(error.__traceback__) if frame.filename in paths]
    return f" ({lines[-1].filename}, line {lines[-1].lineno})" if lines else ""
