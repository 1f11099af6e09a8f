"""The doctor finds what is missing, and says nothing is where nothing is."""

from __future__ import annotations

import importlib
import io
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from obverse.cli import doctor as module
from obverse.cli.doctor import Finding, base, doctor, folder, hardware, load_torch, optional_packages, packages


def printed(monkeypatch: pytest.MonkeyPatch, findings: list[Finding]) -> tuple[int, str]:
    monkeypatch.setattr(module, "findings", lambda: iter(findings))
    file = io.StringIO()
    return doctor(Console(file=file, width=100)), file.getvalue()


def test_ready_if_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = printed(monkeypatch, [Finding("ok", "torch", "2.13"), Finding("note", "datasets", "not installed")])
    assert code == 0 and text.splitlines()[-1] == "ready"


def test_what_is_missing_is_named_and_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = printed(monkeypatch, [Finding("missing", "torch", "not installed"), Finding("ok", "disk", "1 GB")])
    assert code == 1 and text.splitlines()[-1] == "not ready: torch"


def test_a_package_that_is_not_there_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "pyarrow":
            raise PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(module, "version", version)
    found = {finding.name: finding for finding in packages()}
    assert found["pyarrow"].state == "missing" and "pip install pyarrow" in found["pyarrow"].text
    assert found["torch"] == Finding("ok", "torch", "1.0")


def test_a_torch_that_cannot_be_loaded_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise OSError("libtorch.so: cannot open shared object file\nmore")

    monkeypatch.setattr(importlib, "import_module", broken)
    found = load_torch()
    assert isinstance(found, Finding) and found.state == "missing"
    assert found.text == "cannot be loaded: libtorch.so: cannot open shared object file"


def test_optional_packages_are_never_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: name == "peft" or None)
    found = {finding.name: finding for finding in optional_packages()}
    assert found["peft"].state == "ok" and found["datasets"].state == "note"
    assert set(found) == set(module.OPTIONAL)


def test_a_folder_that_cannot_be_written_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert next(folder(tmp_path)).state == "ok"
    assert list(tmp_path.iterdir()) == []

    def refuse(**options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.tempfile, "NamedTemporaryFile", refuse)
    assert next(folder(tmp_path)).state == "missing"


def test_little_disk_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 2**20

    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage)
    assert [finding.state for finding in folder(tmp_path)] == ["ok", "note"]


def test_a_lost_base_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BASE", tmp_path)
    (tmp_path / "config.json").touch()
    found = base()
    assert found.state == "missing" and "model.safetensors, tokenizer.json not found" in found.text


def test_hardware_says_which_threads_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch  # here: the other tests need no torch

    from obverse.models import cpu_threads as pace

    monkeypatch.setattr(pace, "SECONDS", 0.001)
    monkeypatch.setattr(pace, "num_cores", lambda: 2)
    monkeypatch.setattr(module, "TYPICAL", ((8, 4),))
    threads = torch.get_num_threads()
    found = {finding.name: finding.text for finding in hardware(torch)}
    assert "1 for models under 20M parameters" in found["threads"]
    assert all("float32" in found[name] and "GFLOP/s" in found[name] for name in ("1 thread", "2 threads"))
    assert "auto is float32" in found["dtype"]
    assert torch.get_num_threads() == threads


def test_the_threads_that_were_measured_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from obverse.models import cpu_threads as pace

    rates = {"float32": (1e11, 1.9e11), "bfloat16": (2e11, 3.8e11)}
    found = [
        pace.Throughput(index + 1, dtype, rate) for dtype, pair in rates.items() for index, rate in enumerate(pair)
    ]
    monkeypatch.setattr(pace, "measure", lambda shapes, dtypes: found)
    told = {finding.name: finding.text for finding in module.paces()}
    assert told["threads"].startswith("2 ") and "2.0 times as fast" in told["dtype"]
    assert told["1 thread"] == "float32 100 GFLOP/s, bfloat16 200 GFLOP/s"
