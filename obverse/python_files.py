"""A user's Python file with the modules it imports from beside it: read once, fingerprinted, loaded from what was read.

Verifiers and methods may be files of the user's. What runs is the text that was read at the start, in this process and
in every worker process, however the files are edited meanwhile; and its sha256 tells whether two runs ran the same.

Covered: the file, and every module that its import statements (inside functions too, and `import_module("name")` with
a literal name) reach, as long as it is Python source in the file's own folder or in a folder of `sys.path` that is no
place of installed packages. A module is looked for on `sys.path` first, then beside the file. Not covered: installed
and compiled packages, names that are computed while the code runs, data files that it opens.
"""

from __future__ import annotations

import ast
import hashlib
import site
import sys
import sysconfig
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from traceback import extract_tb
from types import ModuleType

from obverse.errors import ConfigError

PREFIX = "obverse_user_"  # of the names that users' files get in sys.modules
MAIN = ""  # the module name of the user's file among its sources


@dataclass(frozen=True)
class Source:
    """One file of a user's code; a folder without `__init__.py` that holds modules has no text."""

    module: str  # the name that it is imported by
    path: str
    text: bytes | None
    is_package: bool = False


@dataclass(frozen=True)
class Code:
    """A user's file and the modules of theirs that it imports, as they were when they were read."""

    path: str
    sources: tuple[Source, ...]  # the file itself first
    sha256: str  # of all names and texts, not of where they lie

    def __hash__(self) -> int:
        return hash((self.path, self.sha256))

    @property
    def module(self) -> str:
        """The name that the file itself gets in `sys.modules`."""
        return f"{PREFIX}{hashlib.sha256(f'{self.path} {self.sha256}'.encode()).hexdigest()[:16]}"


# Reading


def read(path: str | Path) -> Code:
    """The user's file and what it imports from beside it; inside `read_once` what the first call read.

    Raises OSError for a file that cannot be read. A syntax error is left to `load`.

    Example:
        read("rewards.py").sha256 == read("copy/of/rewards.py").sha256
    """
    place = str(Path(path).expanduser().absolute())
    if not _scopes:
        return _read(place)
    if place not in _kept:
        _kept[place] = _read(place)
    return _kept[place]


def read_text(path: str | Path) -> str:
    """A text file of the user's as UTF-8, such as a template; inside `read_once` what the first call read.

    Raises OSError or UnicodeDecodeError.
    """
    place = str(Path(path).expanduser().absolute())
    if not _scopes:
        return Path(place).read_text(encoding="utf-8")
    if place not in _texts:
        _texts[place] = Path(place).read_text(encoding="utf-8")
    return _texts[place]


@contextmanager
def read_once() -> Iterator[None]:
    """Inside, each file of the user's is read once: an edit reaches the next run and never half of this one.

    Scopes may lie in each other; the outermost one decides. Also a decorator.
    """
    global _period
    if not _scopes:
        _period += 1
        _kept.clear()
        _texts.clear()
    _scopes.append(object())
    try:
        yield
    finally:
        _scopes.pop()


def period() -> int:
    """Counts the outermost scopes of `read_once`: a cache of what files hold is good for one of them."""
    return _period


_scopes: list[object] = []
_kept: dict[str, Code] = {}
_texts: dict[str, str] = {}
_period = 0


def _read(place: str) -> Code:
    path = Path(place).resolve()
    folders = [*dict.fromkeys([path.parent, Path(place).parent])]
    sources = {MAIN: Source(MAIN, str(path), path.read_bytes())}
    rest = [sources[MAIN]]
    while rest:
        source = rest.pop()
        for name in _imports(source):
            if name not in sources and (found := _find(name, sources, folders)):
                sources[name] = found
                rest.append(found)
    digest = hashlib.sha256()
    for name in sorted(sources):
        text = sources[name].text
        digest.update(f"{name}\0{hashlib.sha256(text).hexdigest() if text is not None else ''}\n".encode())
    return Code(str(path), tuple(sources.values()), digest.hexdigest())


def _imports(source: Source) -> list[str]:
    """The names of all modules that a file's statements may import, each behind the packages that it is in."""
    try:
        tree = ast.parse(source.text or b"")
    except (SyntaxError, ValueError, RecursionError):  # told when the file is loaded
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


def _find(name: str, known: dict[str, Source], folders: Sequence[Path]) -> Source | None:
    """A module of the user's own, None for one that is installed, compiled or not there."""
    package, _, last = name.rpartition(".")
    if package:
        above = known.get(package)
        if above is None or not above.is_package:
            return None
        places = [Path(above.path).parent if above.text is not None else Path(above.path)]
    elif name in sys.stdlib_module_names or name == __package__:
        return None
    else:
        places = [*(Path(each).absolute() for each in sys.path), *folders]
    spread: Path | None = None
    for place in places:
        for path in (place / last / "__init__.py", place / f"{last}.py"):
            if path.is_file():
                is_own = not _is_installed(path) or any(map(path.is_relative_to, _own(folders)))
                return Source(name, str(path), path.read_bytes(), path.name == "__init__.py") if is_own else None
        if any(place.glob(f"{last}.*so")) or any(place.glob(f"{last}.*pyd")):
            return None
        if spread is None and (place / last).is_dir():
            spread = place / last
    is_own = spread is not None and not _is_installed(spread)
    return Source(name, str(spread), None, is_package=True) if is_own else None


def _own(folders: Sequence[Path]) -> list[Path]:
    """The folders of the user's file, unless it lies right among the installed packages."""
    return [folder for folder in folders if folder.resolve() not in _installed()]


def _is_installed(path: Path) -> bool:
    return any(map(path.resolve().is_relative_to, _installed()))


@cache
def _installed() -> tuple[Path, ...]:
    """Where packages and the standard library are installed."""
    names = ("purelib", "platlib", "stdlib", "platstdlib")
    places = [sysconfig.get_path(name) for name in names] + site.getsitepackages() + [site.getusersitepackages()]
    return tuple(dict.fromkeys(Path(place).resolve() for place in places if place))


# Loading


class _Texts(MetaPathFinder, SourceLoader):  # type: ignore[misc]  # typeshed has two forms of source_to_code
    """Imports the modules of one Code from the texts that were read."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self.scope = _scopes[0] if _scopes else None  # the outermost `read_once` that it belongs to
        self.sources = {source.module or code.module: source for source in code.sources}
        self.texts = {source.path: source.text for source in code.sources if source.text is not None}

    def leave(self) -> None:
        """Import nothing more, and forget what was imported."""
        sys.meta_path.remove(self)
        for name in self.sources.keys() & sys.modules.keys():
            if self.gave(sys.modules[name]):
                del sys.modules[name]

    def has(self, source: Source) -> bool:
        """Whether it imports the same from the same place."""
        return self.sources.get(source.module) == source

    def gave(self, module: ModuleType) -> bool:
        """Whether a module was imported by this finder, or by another from the same text."""
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
    """Run the user's file, once per process, and return it as a module; it and its imports run as they were read.

    Modules that this process has imported under the same names stay what they are to the rest of the program. Raises
    whatever the file raises, and ConfigError where another file of the same `read_once` has another module of a name.
    """
    if code.module in sys.modules:
        return sys.modules[code.module]
    finder = _Texts(code)
    names = {source.module for source in code.sources if source.module}
    for other in [each for each in sys.meta_path if isinstance(each, _Texts)]:
        differing = sorted(name for name in names & other.sources.keys() if not finder.has(other.sources[name]))
        if differing and other.code.path != code.path and other.scope is finder.scope is not None:
            raise ConfigError(
                f"{code.path} and {other.code.path} import different modules that are both called {differing[0]}: "
                "rename one of them"
            )
        if differing or other.code.path == code.path:  # of an earlier run, or an earlier version
            other.leave()
    aside = {name: sys.modules[name] for name in names & sys.modules.keys() if not finder.gave(sys.modules[name])}
    for name in aside:
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
        sys.modules.update(aside)
    return module


def reason(error: BaseException, code: Code) -> str:
    """Why a user's file could not be loaded: the error, and the line of their code that it came from."""
    kind = "" if isinstance(error, SyntaxError | ImportError | ConfigError) else f"{type(error).__name__}: "
    return f"{kind}{error}" + _line(error, {source.path for source in code.sources})


def place(error: BaseException) -> str:
    """` (FILE, line N)`, the innermost line of a user's code that an error passed through; "" if it passed none."""
    return _line(error, {path for finder in sys.meta_path if isinstance(finder, _Texts) for path in finder.texts})


def _line(error: BaseException, paths: Set[str]) -> str:
    lines = [frame for frame in extract_tb(error.__traceback__) if frame.filename in paths]
    return f" ({lines[-1].filename}, line {lines[-1].lineno})" if lines else ""
