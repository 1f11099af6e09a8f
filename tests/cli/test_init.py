"""`obverse init` writes a file that works at once, and changes nothing by itself."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from obverse.cli.init import starter_file
from obverse.cli.main import main
from obverse.config.resolve import resolve
from obverse.config.yaml_file import read
from obverse.methods import find, names

COMMENTED = re.compile(r"^# (?=[a-z_0-9]+: \S)", re.MULTILINE)
QUICK = ("dpo", "hpt", "sft", "sft_then_rl")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in names()]
)
def test_the_file_is_the_run_of_the_command_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    text = starter_file(name, find(name), "some/model", "rows.jsonl", path)
    expected = resolve(name, find(name), {"model": "some/model", "dataset": "rows.jsonl"}).model_dump()
    for content in (text, COMMENTED.sub("", text)):  # as it is, and with every option uncommented
        path.write_text(content, encoding="utf-8")
        assert resolve(name, find(name), {}, read(path)).model_dump() == expected
    assert set(read(path).values) > {"method", "model", "dataset", "learning_rate", "max_steps", "output_dir"}


def test_the_file_explains_its_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "dft", "--output", str(tmp_path / "x.yaml"), "--model", "m"]) == 0
    assert f"obverse train --config {tmp_path / 'x.yaml'}" in capsys.readouterr().out
    text = (tmp_path / "x.yaml").read_text()
    assert "# learning_rate: 5.0e-05" in text and "2508.05629" in text and "paper's" in text
    assert "--help-all" in text and "verifier" not in text and "\nmodel: m\n" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_command_is_quoted_for_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("a b #c: 'd'")
    folder.mkdir()
    assert main(["init", "sft", "--output", str(folder / "x.yaml"), "--model", f"{folder}/m", "--dataset", "d #1"]) == 0
    command = capsys.readouterr().out.partition(" with ")[2]
    assert shlex.split(command) == ["obverse", "train", "--config", str(folder / "x.yaml")]
    assert command.strip() in (folder / "x.yaml").read_text()
    values = read(folder / "x.yaml").values
    assert (values["model"], values["dataset"]) == (f"{folder}/m", "d #1")


def test_a_file_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "sft"]) == 0
    before = Path("sft.yaml").read_bytes()
    assert main(["init", "sft", "--model", "m"]) == 2 and Path("sft.yaml").read_bytes() == before
    assert main(["init", "sft", "--output", "no/such/folder.yaml"]) == 2
    assert main(["init", "grpoo"]) == 2 and not Path("grpoo.yaml").exists()
    assert "did you mean 'grpo'" in capsys.readouterr().err


def test_a_method_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("from obverse.methods.sft import sft\ndef plain():\n    return sft()\n")
    assert main(["init", "mine.py:plain"]) == 0
    assert read("plain.yaml").values["method"] == "mine.py:plain"


def test_the_help_names_the_command_that_lists_every_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("My file.py").write_text("from obverse.methods.sft import sft\ndef Plain():\n    return sft()\n")
    for method in ("hpt", "My file.py:Plain"):
        assert main(["train", method, "--help"]) == 0
        command = re.search(r"[0-9]+ more options: (.*)", capsys.readouterr().out)
        assert command and shlex.split(command[1]) == ["obverse", "train", method, "--help-all"]
