"""Write docs/architecture.md anew between its markers: every package with its files, lines and imports.

python tests/house/architecture.py      # part of `make methods`
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from house.source import PACKAGE, ROOT, imports, inside, modules
from house.test_packages import ENTRY, PACKAGES

PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- packages -->", "<!-- /packages -->"


def arrows() -> dict[str, set[str]]:
    """The packages that each package imports."""
    edges: dict[str, set[str]] = {package: set() for package in PACKAGES}
    for name, module in modules().items():
        targets = () if name in ENTRY else (inside(item.target) for item in imports(name))
        edges[module.package] |= {modules()[target].package for target in targets if target}
    return {package: targets - {package} for package, targets in edges.items()}


def reduced(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows without those that a longer way implies, for the picture."""
    above: dict[str, set[str]] = {}
    for package in PACKAGES:  # each one imports earlier ones only
        above[package] = edges[package] | {far for near in edges[package] for far in above[near]}
    return {
        package: {near for near in targets if not any(near in above[between] for between in targets - {near})}
        for package, targets in edges.items()
    }


def table() -> str:
    """The packages as a Markdown table and a Mermaid graph."""
    edges = arrows()
    rows = ["| package | files | lines | owns | imports |", "|---|--:|--:|---|---|"]
    for package in PACKAGES:
        members = [module for module in modules().values() if module.package == package]
        lines = sum(len(module.path.read_text(encoding="utf-8").splitlines()) for module in members)
        owns = (modules()[package].docstring if package else "types, errors, seeds, redaction; the public API").rstrip(
            "."
        )
        earlier = ", ".join(f"`{name}`" if name else "root" for name in PACKAGES if name in edges[package])
        title = f"`{package}/`" if package else "root"
        rows.append(f"| {title} | {len(members)} | {lines:,} | {owns} | {earlier or 'nothing'} |")
    total = sum(len(module.path.read_text(encoding="utf-8").splitlines()) for module in modules().values())
    rows.append(f"| all | {len(modules())} | {total:,} | | |")
    return "\n".join([*rows, "", "```mermaid", "graph BT", *graph(), "```"])


def graph() -> list[str]:
    """The arrows of the Mermaid graph, one a line."""
    return [
        f"    {package} --> {target or 'root'}"
        for package, targets in reduced(arrows()).items()
        for target in PACKAGES
        if target in targets
    ]


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}", encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(modules())} files of {PACKAGE.name}")


if __name__ == "__main__":
    main()
