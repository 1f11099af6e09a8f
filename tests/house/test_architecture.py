"""docs/architecture.md shows the packages and arrows of the code, and the line counts of the last `make methods`."""

from __future__ import annotations

from house.architecture import PAGE, graph
from house.test_packages import PACKAGES


def test_the_page_has_every_arrow_and_package() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if " --> " in line] == graph(), "run `make methods`"
    assert all(any(line.startswith(f"| `{package}/` |") for line in lines) for package in PACKAGES if package)
