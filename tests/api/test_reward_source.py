"""Reward functions of the calling program: which of them become a file, with which content."""

from __future__ import annotations

import ast
import functools
import importlib
import linecache
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from obverse import python_files
from obverse.api import compare as api_compare
from obverse.api.function_source import FunctionFile
from obverse.api.method_source import method_of
from obverse.api.reward_source import file_of, reward_files
from obverse.errors import ConfigError
from obverse.rewards.python_file import adapt
from obverse.types import Problem

PROBLEM = Problem("p", "2+2=", answer="4")
CELL = '''
import math
import numpy
import xml.etree.ElementTree
import re
from functools import partial, wraps

import obverse
from obverse.estimator.parts import PerToken, Request
from obverse.types import Source

BONUS = 0.25
PATTERN = re.compile("[0-9]+", re.IGNORECASE)
state = object()
count = 0


def last(text):
    return PATTERN.findall(text)[-1:]


def score(completions, answer, bonus=BONUS, **columns):
    """Whether the last number is the answer."""
    return [float(last(text) == [row]) + bonus * math.floor(1.5) for text, row in zip(completions, answer)]


def counting(problem, text):
    global count
    count += 1
    return count


def with_state(problem, text):
    return float(state is None)


def make(weight):
    def inner(problem, text):
        return weight * len(text)

    return inner


def guarded(problem, text):
    for _ in range(2):
        try:
            value = math.sqrt(float(text))
        except ValueError:
            continue
        with_else = value if value < 2 else 2.0
        return sum(with_else for _ in range(1))
    return -1.0


short, long = (lambda problem, text: float(len(text) < 3)), lambda problem, text: 1.0 if len(text) > 3 else 0.0


@partial(partial, print)
def decorated(problem, text):
    return 1.0


def imitate(strength: float = BONUS) -> obverse.Method:
    return obverse.Method(
        ask=Request(demonstrations=1),
        terms=(obverse.Term(Source.DEMONSTRATION, normalizer=PerToken(), weight=strength),),
    )


def annotated(problem, text) -> float:
    def inner(value: int) -> float:
        class Number:
            factor = 2.0

        return value * Number.factor

    return inner(len(text))


def of_submodule(problem, text):
    return float(xml.etree.ElementTree.fromstring("<a/>").tag == "a")


def of_module(problem, text):
    return user_rewards.score(problem, text)


def weighted(problem, text):
    return weighted.weight


weighted.weight = 2.0


def with_array(problem, text, weights=numpy.array([1.0, 2.0])):
    return weights.sum()


def with_helper(problem, text):
    return inner_helper(text)


def inner_helper(text):
    return float(state is None)


@wraps(open)
def open(*arguments):
    return None


def reads_a_file(problem, text):
    with open(text) as file:
        return len(file.read())


def make_counter():
    calls = 0

    def counter(problem, text):
        nonlocal calls
        calls += 1
        return calls

    return counter


class Grader:
    def grade(self, problem, text):
        return 1.0
'''


@pytest.fixture(scope="module")
def cell() -> Any:
    """A module whose source is in memory, as that of a notebook cell is."""
    name = "<cell 1>"
    linecache.cache[name] = (len(CELL), None, CELL.splitlines(keepends=True), name)
    module = ModuleType("__main__")
    for statement in ast.parse(CELL).body:  # one after the other, as a notebook does: calls of modules differ then
        exec(compile(ast.Module([statement], []), name, "exec"), vars(module))  # noqa: S102
    return module


def graded(reward: FunctionFile, folder: Path, text: str) -> float:
    """The reward that a function gives after it was written to a file."""
    path = folder / reward.file
    path.write_text(reward.text)
    module = python_files.load(python_files.read(path))
    grade = adapt(getattr(module, reward.function), "test")(PROBLEM, text)
    return grade.reward


@pytest.mark.parametrize(
    ("get", "reward"),
    [
        (lambda cell: cell.score, 1.25),
        (lambda cell: cell.make(0.5), 2.5),
        (lambda cell: cell.guarded, -1.0),
        (lambda cell: cell.annotated, 10.0),
        (lambda cell: cell.of_submodule, 1.0),
        (lambda cell: cell.short, 0.0),
        (lambda cell: cell.long, 1.0),
    ],
)
def test_a_function_of_a_cell_becomes_a_file(cell: Any, get: Any, reward: float, tmp_path: Path) -> None:
    assert graded(file_of(get(cell)), tmp_path, "2+2=4") == reward


def test_the_file_has_what_the_function_uses_and_no_more(cell: Any) -> None:
    text = file_of(cell.score).text
    assert "BONUS = 0.25" in text and "def last(text):" in text and "import math" in text
    assert "import xml.etree.ElementTree" in file_of(cell.of_submodule).text
    assert "def open" not in file_of(cell.reads_a_file).text  # as of IPython: the built-in function
    assert "state" not in text and "Grader" not in text
    assert file_of(cell.score) == file_of(cell.score) != file_of(cell.make(1.0))
    assert file_of(cell.make(1.0)) != file_of(cell.make(2.0))


@pytest.mark.parametrize(
    ("get", "message"),
    [
        (lambda cell: cell.counting, "global variable count"),
        (lambda cell: cell.with_state, "uses state, of the type object"),
        (lambda cell: cell.make(object()), "uses weight"),
        (lambda cell: cell.make_counter(), "sets calls of the function around it"),
        (lambda cell: cell.with_helper, r"uses inner_helper \(it uses state, of the type object.*\)"),
        (lambda cell: cell.weighted, "not what its source gives"),
        (lambda cell: cell.with_array, "not what its source gives"),
        (lambda cell: cell.Grader().grade, "method"),
        (lambda cell: cell.Grader, "type"),
        (lambda cell: functools.partial(cell.score, bonus=1), "partial"),
    ],
)
def test_what_cannot_be_shown_to_be_equal_is_refused(cell: Any, get: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"{message}.*top level of a Python file"):
        file_of(get(cell))


def test_a_function_without_source_is_refused() -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec("def score(problem, text): return 1.0", space)  # noqa: S102
    with pytest.raises(ConfigError, match="source is not available"):
        file_of(space["score"])


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("short", "len(text) < 3", "len(text) < 4"),
        ("guarded", "except ValueError", "except KeyError"),
        ("guarded", "float(text)", "int(text)"),
        ("score", "math.floor(1.5)", "math.ceil(1.5)"),
        ("score", "[-1:]", "[-2:]"),  # in a function that it uses
    ],
)
def test_a_function_that_was_changed_since_is_refused(
    cell: Any, monkeypatch: pytest.MonkeyPatch, name: str, before: str, after: str
) -> None:
    assert before in CELL
    lines = CELL.replace(before, after).splitlines(keepends=True)
    monkeypatch.setitem(linecache.cache, "<cell 1>", (len(CELL), None, lines, "<cell 1>"))
    with pytest.raises(ConfigError, match="not what its source gives"):
        file_of(getattr(cell, name))


def test_a_function_of_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rewards.py").write_text("def score(problem, text):\n    return 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    import own_rewards  # type: ignore[import-not-found]  # here: the test writes it

    reward = file_of(own_rewards.score)
    assert reward.spec(tmp_path) == f"{tmp_path / 'own_rewards.py'}:score" and not reward.text
    assert "from re import compile" in file_of(re.compile).text  # of a package: it is imported


def test_names_and_lists(cell: Any, tmp_path: Path) -> None:
    assert [reward.spec(Path("run")) for reward in reward_files(["math", "a.py:f"])] == ["math", "a.py:f"]
    files = reward_files([cell.make(0.5), cell.make(1.0), cell.make(2.0), cell.short, cell.long])
    assert [file.function for file in files] == ["inner", "inner_2", "inner_3", "reward", "reward_2"]
    assert graded(files[1], tmp_path, "abc") == 3.0
    for wrong in ([], 5):
        with pytest.raises(ConfigError, match="reward: expects"):
            reward_files(wrong)  # type: ignore[arg-type]


def test_a_method_of_a_cell_becomes_a_file(cell: Any, tmp_path: Path) -> None:
    method = method_of(cell.imitate)
    assert method.name == "imitate" and method.file is not None and method.placed(None) is method
    (tmp_path / method.file.file).write_text(method.file.text)
    placed = method.placed(tmp_path)
    assert placed.name == f"{tmp_path}/{method.file.file}:imitate"
    assert placed.make(strength=0.5) == method.make(strength=0.5) != method.make()
    assert method_of("sft").file is None
    with pytest.raises(ConfigError, match="top level"):
        method_of(cell.with_state)


def test_a_comparison_takes_a_method_of_a_cell(cell: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[Any] = []
    monkeypatch.setattr(api_compare, "compare_and_report", lambda config, *_: configs.append(config))
    api_compare.compare([cell.imitate, "sft"], budget=1, output_dir=tmp_path)
    assert configs[0].methods == (f"{tmp_path}/{method_of(cell.imitate).file.file}:imitate", "sft")  # type: ignore[union-attr]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An imported file of the user, with a constant that its function reads."""
    text = "LIMIT, SEEN = 10, {}\nBONUS: float = 1.0\nSTART = None\ndef score(problem, text):\n"
    text += "    return float(len(text) < 3) * BONUS + (START or 0) + bonus()\n"
    text += "def bonus(): return 1.0\nif START:\n    def bonus(): return 2.0\n"  # two: it is not known which is meant
    (tmp_path / "user_rewards.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("user_rewards")
    del sys.modules["user_rewards"]


def test_a_file_that_changed_since_its_import_is_refused(module: Any, cell: Any) -> None:
    path = Path(module.__file__)
    vars(cell)["user_rewards"] = module
    assert file_of(module.score).spec(path) == f"{path}:score" and not file_of(cell.of_module).file.startswith("/")
    module.BONUS = 2.0
    for function in (module.score, cell.of_module):
        with pytest.raises(ConfigError, match=r"BONUS is 2.0 in memory and 1.0 in .*user_rewards.py"):
            file_of(function)
    module.BONUS, module.START = 1.0, 5
    with pytest.raises(ConfigError, match="START is 5 in memory and None in"):
        file_of(module.score)
    module.START = None
    path.write_text(path.read_text().replace("< 3", "< 4"))
    for function in (module.score, cell.of_module):
        with pytest.raises(ConfigError, match="another score than the one in memory: reload user_rewards$"):
            file_of(function)
    path.write_text(path.read_text().replace("< 4", "< 3") + "\n\ndef not_used():\n    return BONUS\n")
    assert file_of(module.score).function == "score"


SCRIPT = """
import types
WEIGHTS = types.SimpleNamespace(short=1.0)
EXTRA = types.SimpleNamespace(short=1.0)
def of_import(problem, text): return WEIGHTS.short
def of_guard(problem, text): return ARRAY.short
def of_changed(problem, text): return EXTRA.short
def main():
    EXTRA.short = 2.0
if __name__ == "__main__":
    def inside(problem, text): return WEIGHTS.short
    ARRAY = WEIGHTS
    main()
"""


def test_a_script_is_named_if_its_import_defines_what_the_function_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    script = ModuleType("__main__")
    script.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "__main__", script)
    exec(compile(SCRIPT, str(path), "exec"), vars(script))  # noqa: S102
    assert file_of(script.of_import).spec(tmp_path) == f"{path}:of_import"
    for name, used in (("of_guard", "ARRAY"), ("of_changed", "EXTRA"), ("inside", "WEIGHTS")):
        with pytest.raises(ConfigError, match=f"it uses {used}, of the type SimpleNamespace"):
            file_of(getattr(script, name))
