"""What the tests of reliability share: one tiny model, one file of problems, one process that forks runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from reliability.forks import Forks
from tiny_models import save_tiny

import runs


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen2", tmp_path_factory.mktemp("reliability") / "qwen2")


@pytest.fixture(scope="session")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_problems(tmp_path_factory.mktemp("reliability") / "chains.jsonl")


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    made = Forks()
    yield made
    made.close()
