"""Build the documentation site into site/: `make site`, or python -m recipes.site.

The pages are assembled in build/site: those of docs/, generated reference pages, and the repository's files that the
pages link to. Zensical renders them in its strict mode, so that a broken link ends the build; then the links and
resources of the written pages are checked. Nothing is fetched from a network.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from recipes.site.assemble import assemble
from recipes.site.links import check
from recipes.site.navigation import BUILT, configuration

ROOT = Path(__file__).parents[2]


def build(output: Path, sources: Path) -> list[str]:
    """Write the site into `output` by way of `sources`; returns the problems of the written pages, a line each.

    Both folders are replaced. Raises SystemExit if a page cannot be assembled or rendered without a warning.
    """
    for folder in (output, sources):
        shutil.rmtree(folder, ignore_errors=True)
    pages = assemble(ROOT, sources / "docs")
    config = sources / "mkdocs.yml"
    config.write_text(yaml.safe_dump(configuration(pages), sort_keys=False), encoding="utf-8")
    rendered = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", str(config)],
        cwd=sources,
        env={**os.environ, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if rendered.returncode:
        sys.exit(f"{rendered.stdout}\nthe site was not built: see the warnings above")
    shutil.move(sources / BUILT, output)
    return check(output)


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "site")
    output = parser.parse_args().output
    problems = build(output, ROOT / "build" / "site")
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{output}: {len(list(output.rglob('*.html')))} pages, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
