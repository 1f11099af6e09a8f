"""One writer at a time, whole files or none, names that a file system can have: for every command that writes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tiny_models import save_tiny

from obverse.api import export as exporting
from obverse.api.export import export, making
from obverse.cli.main import main
from obverse.config.commands import ExportConfig
from obverse.errors import ConfigError, InUseError, StorageError
from obverse.runtime.file_writes import exclusive_lock, write_atomically
from obverse.runtime.run_dir import RunFolder


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_atomically(tmp_path / "a", b"old")

    def refuse(source: Path, target: Path) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and [each.name for each in tmp_path.iterdir()] == ["a"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen2", tmp_path_factory.mktemp("export") / "model")


def test_two_exports_to_one_place_do_not_mix(model: Path, tmp_path: Path) -> None:
    config = ExportConfig(model=str(model), output=tmp_path / "out")
    with making(tmp_path / "out") as part:
        (part / "file").write_text("of the first")
        with pytest.raises(InUseError, match=r"in use by process \d+"):
            export(config)
    assert (tmp_path / "out" / "file").read_text() == "of the first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]


def test_an_export_removes_what_a_killed_one_left_and_nothing_else(model: Path, tmp_path: Path) -> None:
    part = tmp_path / ".out.part"
    part.mkdir()
    (part / "precious").write_text("mine")
    config = ExportConfig(model=str(model), output=tmp_path / "out")
    with pytest.raises(ConfigError, match=r"\.out\.part exists"):
        export(config)
    assert (part / "precious").read_text() == "mine"
    (part / exporting.MARK).touch()
    (part / "folder").mkdir()
    export(config)
    assert not part.exists() and {"config.json", "model.safetensors"} <= {p.name for p in (tmp_path / "out").iterdir()}
    assert exporting.MARK not in os.listdir(tmp_path / "out")


def test_a_full_disk_leaves_no_export(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(shutil, "copyfile", refuse)
    with pytest.raises(StorageError, match="No space left"):
        export(ExportConfig(model=str(model), output=tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_two_analyses_of_one_question_do_not_write_over_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "analyze",
        "variance",
        "--methods",
        "reinforce",
        "--rates",
        "0.5",
        "--num_generations",
        "2",
        "--output",
        str(tmp_path),
    ]
    with exclusive_lock(tmp_path / ".variance.lock", "it", ""):
        assert main(words) == 7
    assert "in use by process" in capsys.readouterr().err and not (tmp_path / "variance.json").exists()
    assert main(words) == 0
    assert json.loads((tmp_path / "variance.json").read_text())["seal"]


def test_an_analysis_that_finds_no_room_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*words: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(RunFolder, "write_text", refuse)
    words = [
        "analyze",
        "variance",
        "--methods",
        "reinforce",
        "--rates",
        "0.5",
        "--num_generations",
        "2",
        "--output",
        str(tmp_path),
    ]
    assert main(words) == 6
    assert "No space left" in capsys.readouterr().err


LONG = "x" * 300
NAMES = [LONG, f"{LONG}/y", "/".join(["y" * 200] * 30), os.fsdecode(b"caf\xe9"), "a\0b"]
COMMANDS = [
    ["eval", "embedded", "--dataset", "arithmetic:1", "--output"],
    ["eval", "--regrade"],
    ["compare", "sft", "--budget", "1K", "--dataset", "arithmetic:1", "--output_dir"],
    ["report", "x", "--output"],
    ["report", "x", "--figures"],
    ["report"],
    ["export", "embedded", "--output"],
    ["analyze", "variance", "--output"],
    ["train", "sft", "--dataset", "arithmetic:1", "--output_dir"],
]


@pytest.mark.parametrize("name", NAMES, ids=["long", "long inside", "long path", "not UTF-8", "NUL"])
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_a_name_that_no_file_can_have_is_one_sentence(
    words: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    assert not list(tmp_path.iterdir())
