"""A user's code: what is read with it, what its fingerprint notices, and that what runs is what was read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from obverse import methods
from obverse import python_files as user_code
from obverse.errors import ConfigError
from obverse.rewards import get_verifier, worker_pool
from obverse.rewards import python_file as user
from obverse.types import Problem

PROBLEM = Problem("p1", "2+2=", answer="4")
IMPORTS = {
    "import": "import helper\nscore = helper.score\n",
    "from": "from helper import score\n",
    "package": "import kit.inner\nscore = kit.inner.score\n",
    "from package": "from kit import inner\nscore = inner.score\n",
    "relative": "from kit.outer import score\n",
    "spread": "from loose.deep.inner import score\n",
    "by name": "import importlib\nscore = importlib.import_module('helper').score\n",
    "late": "def score(text):\n    from helper import score\n    return score(text)\n",
}
HELD_BY = {"package": "kit/inner.py", "from package": "kit/inner.py", "relative": "kit/inner.py"}
HELD_BY["spread"] = "loose/deep/inner.py"


def write(folder: Path, form: str, value: float = 1.0) -> Path:
    """A verifier whose score is in a module beside it, imported in that form; returns the module's file."""
    for name in ("kit", "loose/deep"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "kit" / "__init__.py").write_text("")
    (folder / "kit" / "outer.py").write_text("from .inner import score\n")
    (folder / "v.py").write_text(IMPORTS[form] + "def verify(problem, text):\n    return score(text)\n")
    held = folder / HELD_BY.get(form, "helper.py")
    held.write_text(f"def score(text):\n    return {value}\n")
    return held


@pytest.mark.parametrize("form", IMPORTS)
def test_a_module_beside_the_file_is_part_of_it(form: str, tmp_path: Path) -> None:
    held = write(tmp_path, form)
    before = user_code.read(tmp_path / "v.py")
    held.write_text(held.read_text().replace("1.0", "0.0"))
    assert user_code.read(tmp_path / "v.py").sha256 != before.sha256
    assert str(held) in {source.path for source in before.sources}


def test_what_it_is_and_not_where_it_lies_makes_the_fingerprint(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b" / "deeper"
    for folder in (first, second):
        folder.mkdir(parents=True)
        write(folder, "from")
    (tmp_path / "link.py").symlink_to(first / "v.py")
    codes = [user_code.read(path) for path in (first / "v.py", second / "v.py", tmp_path / "link.py")]
    assert len({code.sha256 for code in codes}) == 1 and len(codes[2].sources) == 2
    (first / "unread.py").write_text("x = 1")
    (first / "v.py").write_text((first / "v.py").read_text() + "# a word\n")
    assert user_code.read(first / "v.py").sha256 != codes[0].sha256, "a comment is a change of bytes"


def test_installed_packages_and_obverse_are_no_part(tmp_path: Path) -> None:
    (tmp_path / "v.py").write_text("import json, numpy, yaml\nfrom obverse.types import GradeResult\nimport nowhere\n")
    (tmp_path / "json.py").write_text("")
    assert [source.module for source in user_code.read(tmp_path / "v.py").sources] == [user_code.MAIN]


@pytest.mark.parametrize("form", IMPORTS)
def test_every_worker_runs_what_was_read(form: str, tmp_path: Path) -> None:
    held = write(tmp_path, form)
    verify = get_verifier(str(tmp_path / "v.py"))
    for path in (held, tmp_path / "v.py"):
        path.write_text("def score(text):\n    return 0.0\ndef verify(problem, text):\n    return 0.0\n")
    assert verify(PROBLEM, "first").reward == 1.0
    for pool in [pool for spec, pool in worker_pool._pools.items() if spec.module == user.WORKER.module]:
        while pool.idle:
            pool.idle.pop().stop()
    assert verify(PROBLEM, "of a worker that was started after the edit").reward == 1.0
    assert get_verifier(str(tmp_path / "v.py"))(PROBLEM, "of the next run").reward == 0.0


def test_two_files_may_each_have_a_helper_of_one_name(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 0.5)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "from", value)
    both = [get_verifier(str(tmp_path / name / "v.py")) for name in ("a", "b")]
    assert [each(PROBLEM, "").reward for each in both] == [1.0, 0.5]


def test_inside_read_once_a_file_is_read_once(tmp_path: Path) -> None:
    held = write(tmp_path, "from")
    with user_code.read_once():
        first = user_code.read(tmp_path / "v.py")
        held.write_text("def score(text): return 0.0")
        with user_code.read_once():
            assert user_code.read(tmp_path / "v.py") is first
    assert user_code.read(tmp_path / "v.py").sha256 != first.sha256


METHOD = """
from __future__ import annotations
import dataclasses
from rates import RATE
from obverse.methods.sft import sft

@dataclasses.dataclass
class Settings:  # needs the module to be known by name
    rate: "float" = RATE

def mine():
    return dataclasses.replace(sft(), run={"learning_rate": Settings().rate})
"""


def test_a_method_is_what_was_read_and_leaves_other_modules_alone(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(METHOD)
    (tmp_path / "rates.py").write_text("RATE = 1.0")
    ours = type(sys)("rates")
    sys.modules["rates"] = ours
    try:
        name = f"{tmp_path / 'm.py'}:mine"
        with user_code.read_once():
            assert methods.build(name).run["learning_rate"] == 1.0
            (tmp_path / "rates.py").write_text("RATE = 2.0")
            assert methods.build(name).run["learning_rate"] == 1.0
        assert methods.build(name).run["learning_rate"] == 2.0
        assert sys.modules["rates"] is ours
    finally:
        del sys.modules["rates"]


def test_modules_of_one_name_in_one_process_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.py").write_text(METHOD)
        (tmp_path / name / "rates.py").write_text(f"RATE = {len(name)}.{ord(name)}")
    first, second = (f"{tmp_path / name / 'm.py'}:mine" for name in ("a", "b"))
    with user_code.read_once(), pytest.raises(ConfigError, match="both called rates"):
        methods.build(first)
        methods.build(second)
    assert methods.build(second).run["learning_rate"] != methods.build(first).run["learning_rate"], "one after another"


def test_a_file_that_raises_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("from rates2 import x\n")
    (tmp_path / "rates2.py").write_text("y = 1\nx = y / 0\n")
    with pytest.raises(ConfigError, match=r"ZeroDivisionError: .*rates2\.py, line 2"):
        methods.find(f"{tmp_path / 'm.py'}:mine")
