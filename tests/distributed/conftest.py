"""What the tests of several ranks share: one process that forks them, one tiny model, problems of uneven lengths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed.teams import Teams
from tiny_models import save_tiny

import runs


@pytest.fixture(scope="session")
def teams() -> Iterator[Teams]:
    made = Teams()
    yield made
    made.close()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen2", tmp_path_factory.mktemp("dist") / "qwen2")


@pytest.fixture(scope="session")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_problems(tmp_path_factory.mktemp("dist") / "chains.jsonl", difficulty=(1, 6))
