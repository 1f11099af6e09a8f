"""A method in a file of the user's: what is wrong with it is one sentence with the file's line, never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from obverse.cli.main import main
from obverse.config.method_options import train_schema
from obverse.config.resolve import resolve
from obverse.errors import ConfigError
from obverse.methods import build, call, find, parameters

GOOD = """
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from obverse.estimator.formula import Term
from obverse.estimator.method import Method
from obverse.estimator.parts import PerToken, Request
from obverse.estimator.parts.interfaces import Part
from obverse.types import Source


@dataclass(frozen=True)
class Twice(Part):
    scale: float = 2.0
    deeper: ClassVar[int] = 1

    def __call__(self, inputs):
        return inputs.policy.logp.new_full(inputs.policy.logp.shape, self.scale)


def mine(scale: float = 2.0, *, level: int = 1, **others) -> Method:
    return Method(
        ask=Request(demonstrations=1),
        terms=(Term(Source.DEMONSTRATION, Twice(scale), normalizer=PerToken()),),
        run={"learning_rate": 1e-3},
    )


sft = mine
"""


def in_file(folder: Path, text: str, name: str = "own.py") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_postponed_annotations_and_dataclasses_work(tmp_path: Path) -> None:
    path = in_file(tmp_path, GOOD)
    assert "twice(scale=3" in str(build(f"{path}:mine", {"scale": 3.0}).terms[0].advantage)
    config = resolve(f"{path}:mine", find(f"{path}:mine"), {"scale": "1.5", "level": "2"})
    assert config.method_options["scale"] == 1.5 and config.method_options["level"] == 2
    assert list(parameters(find(f"{path}:mine")))[-1] == "others"


def test_an_options_section_is_the_help_of_its_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = GOOD.replace(
        "-> Method:\n", '-> Method:\n    """Mine.\n\n    Options\n        scale: factor of every token\n    """\n'
    )
    path = in_file(tmp_path, text)
    assert main(["train", f"{path}:mine", "--help"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "--scale NUM factor of every token [2]" in lines
    assert "--level INT option of mine [1]" in lines


def test_a_shipped_methods_name_in_a_file_is_the_files(tmp_path: Path) -> None:
    path = in_file(tmp_path, GOOD, "sft.py")
    assert "twice" in str(build(f"{path}:sft").terms[0].advantage)
    assert "twice" not in str(build("sft").terms[0].advantage)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("import os\n\n1 / 0\n", 3, "ZeroDivisionError"),
        ("def mine(:\n", 1, "invalid syntax"),
        ("import a_module_that_is_not_there\n", 1, "a_module_that_is_not_there"),
        ("def mine():\n    return 1\nraise SystemExit(3)\n", 3, "SystemExit"),
        ("def mine():\n    x = {}\n    return x['ask']\n", 3, "KeyError"),
        ("def mine():\n    raise ValueError('no')\n", 2, "no"),
        ("def mine():\n    raise NotImplementedError\n", 2, "NotImplementedError"),
    ],
)
def test_what_a_file_raises_is_said_with_its_line(
    text: str, line: int, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = in_file(tmp_path, text)
    assert main(["explain", f"{path}:mine"]) == 2
    err = capsys.readouterr().err
    assert reason in err and f"line {line}" in err and "own.py" in err
    assert "Traceback" not in err and "internal error" not in err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def mine():\n    return {}\n", "returns a dict"),
        ("def mine():\n    pass\n", "returns a NoneType"),
        ("async def mine():\n    pass\n", "is async"),
        ("class mine:\n    pass\n", "returns a mine"),
        ("mine = 3\n", "has no function 'mine'"),
        ("def mien():\n    pass\n", "did you mean 'mien'"),
        ("def mine(a, /):\n    pass\n", "remove the /"),
        ("def mine(_a=1):\n    pass\n", "no option begins with _"),
        ("def mine(groups=1):\n    pass\n", "give it another name"),
        ("from __future__ import annotations\ndef mine(a: Nowhere = 1):\n    pass\n", "NameError"),
        ("class Own:\n    pass\ndef mine(a: Own = None):\n    pass\n", "a type that no option can have"),
    ],
)
def test_what_is_no_method_is_one_sentence(
    text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = in_file(tmp_path, text)
    assert main(["train", f"{path}:mine", "--dry-run"]) == 2
    err = capsys.readouterr().err
    assert reason in err and err.startswith("error: ") and "Traceback" not in err


def test_an_option_that_is_required_is_named(tmp_path: Path) -> None:
    path = in_file(tmp_path, GOOD.replace("scale: float = 2.0, *", "scale: float, *"))
    with pytest.raises(ConfigError, match="missing a required argument: 'scale'"):
        build(f"{path}:mine")
    assert main(["train", f"{path}:mine", "--help"]) == 0
    assert main(["explain", f"{path}:mine", "--scale", "1"]) == 0


@pytest.mark.parametrize("name", ["own.py", "own.py:"])
def test_a_file_without_a_function_is_told_how_to_name_one(name: str, tmp_path: Path) -> None:
    in_file(tmp_path, GOOD)
    with pytest.raises(ConfigError, match=r"file\.py:function|own\.py:function|it has mine|has no function"):
        find(str(tmp_path / name))


PART = GOOD.replace("return inputs.policy.logp.new_full", "return inputs.tokens.anchor * inputs.policy.logp.new_full")
RAISES = GOOD.replace("        return inputs.policy", "        raise KeyError('colour')\n        return inputs.policy")


@pytest.mark.parametrize(("text", "reason"), [(PART, "needs = frozenset({'anchor'})"), (RAISES, "KeyError: 'colour'")])
def test_a_part_that_fails_in_the_run_is_an_error_of_options(
    text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = in_file(tmp_path, text)
    words = ["--max_steps", "1", "--prompts_per_step", "2", "--output_dir", "r", "--no-report"]
    assert main(["train", f"{path}:mine", *words]) == 2
    err = capsys.readouterr().err
    assert reason in err and "Traceback" not in err and "internal error" not in err


def test_names_of_columns_are_checked_when_the_method_is_made(tmp_path: Path) -> None:
    needs: Any = "    needs: ClassVar[frozenset[str]] = frozenset({'anchro'})\n    deeper"
    path = in_file(tmp_path, GOOD.replace("    deeper", needs))
    with pytest.raises(ConfigError, match=r"did you mean 'anchor'.*own\.py, line"):
        call("mine", find(f"{path}:mine"), {})
    assert train_schema(find(f"{path}:mine")).model_fields["scale"].default == 2.0
