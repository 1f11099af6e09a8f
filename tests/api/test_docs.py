"""The examples of docs/api.md and of the docstrings give what they show."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
from house.source import ROOT

MODULES = ("coefficients", "loss", "method_entries", "rows", "run", "table")


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"obverse.api.{name}"))
    assert results.failed == 0 and results.attempted > 0


@pytest.mark.slow  # it trains eight times
def test_examples_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = doctest.testfile(str(ROOT / "docs" / "api.md"), module_relative=False)
    assert results.failed == 0 and results.attempted > 40
