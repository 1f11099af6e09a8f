"""Write every file that is generated from the methods: `make methods`, or python -m recipes.method_files.

To run after a method was added, removed or changed. Writes docs/methods, the table of families in README.md, the table
of packages in docs/architecture.md and the stored traces of methods that have none (about a minute each), and removes
what belongs to no method. Existing traces stay: a change that is meant to alter a method's numbers runs
`tests/reliability/traces.py METHOD` itself.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from obverse.cli.method_pages import pages
from obverse.cli.method_table import Entry, entries, family_table

ROOT = Path(__file__).parents[1]
PAGES, README = ROOT / "docs" / "methods", ROOT / "README.md"
TESTS = ROOT / "tests"
TRACES, TRACE_WRITER = TESTS / "data" / "traces", TESTS / "reliability" / "traces.py"
ARCHITECTURE_WRITER = TESTS / "house" / "architecture.py"
BLOCK = re.compile(r"(<!-- methods -->\n).*?(\n<!-- /methods -->)", re.DOTALL)


def readme(text: str, rows: list[Entry]) -> str:
    """The text of README.md with the current table of families between its marks; exits if there are no marks."""
    table = family_table(rows)
    text, num_blocks = BLOCK.subn(lambda block: f"{block[1]}\n{table}\n{block[2]}", text)
    if num_blocks != 1:
        sys.exit("README.md: expects one block between <!-- methods --> and <!-- /methods -->")
    return text


def write_pages(rows: list[Entry]) -> None:
    """Write the pages of docs/methods and remove those of methods that are gone."""
    texts = pages(rows)
    for path in PAGES.glob("*.md"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        (PAGES / name).write_text(text, encoding="utf-8")


def write_traces(names: list[str]) -> None:
    """Write the traces that are missing and remove those of methods that are gone."""
    stored = {path.stem: path for path in TRACES.glob("*.json")}
    for name in stored.keys() - set(names):
        stored[name].unlink()
    missing = [name for name in names if name not in stored]
    if missing:
        paths = os.pathsep.join([str(ROOT), str(TESTS)])
        subprocess.run([sys.executable, TRACE_WRITER, *missing], env={**os.environ, "PYTHONPATH": paths}, check=True)


def main() -> None:
    rows = entries()
    write_pages(rows)
    README.write_text(readme(README.read_text(encoding="utf-8"), rows), encoding="utf-8")
    write_traces([row.name for row in rows])
    subprocess.run([sys.executable, ARCHITECTURE_WRITER], check=True)


if __name__ == "__main__":
    main()
