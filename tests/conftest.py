"""What every test shares: no network, one torch thread, tiny models built once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before anything imports torch or transformers: both read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # two threads on a busy machine are slower than one, and sums would depend on their number

import pytest
from tiny_templates import FAMILIES

Count = Callable[..., None]
COUNTED = "counted: "


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Count:
    """`count("kills survived")`: what docs/reliability.md gives figures of is added up and shown behind the tests."""

    def add(name: str, number: int = 1) -> None:
        record_property(COUNTED + name, number)

    return add


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The sums over the tests that passed, of every worker."""
    found: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        for name, number in report.user_properties if report.when == "call" else ():
            if name.startswith(COUNTED):
                found[name] += number
    for name, number in sorted(found.items()):
        terminalreporter.write_line(f"{name}: {number:,}")


@pytest.fixture(scope="session", params=FAMILIES)
def tiny_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny random model, once for every family; `from_pretrained` reads it.

    One family only: `@pytest.mark.parametrize("tiny_dir", ["llama"], indirect=True)`.
    """
    from tiny_models import save_tiny  # here: it imports torch, which most tests do not need

    return save_tiny(request.param, tmp_path_factory.mktemp("tiny") / request.param)
