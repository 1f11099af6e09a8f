"""The packages of obverse as a drawing: their order, what each owns, and the imports that no longer path implies."""

from __future__ import annotations

import sys
from pathlib import Path

from markupsafe import escape

from recipes.site.drawing import as_file

ROOT = Path(__file__).parents[2]
WIDTH, ROW, TOP, LEFT = 860, 30, 24, 110  # LEFT: the arcs' side
NAME = 116  # width of a package's box
LONGEST = 88  # characters of a description


def package_map() -> str:
    """The SVG file of the packages, later ones above: an arc leads from a package to each that it imports."""
    sys.path.insert(0, str(ROOT / "tests"))
    from house.architecture import arrows, reduced
    from house.source import modules
    from house.test_packages import PACKAGES

    order = list(reversed(PACKAGES))
    row = {name: number for number, name in enumerate(order)}
    height = TOP * 2 + ROW * (len(order) - 1) + 10
    parts = [
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="head" d="M0,0L8,4L0,8Z"/></marker></defs>'
    ]
    for package, targets in reduced(arrows()).items():
        for target in sorted(targets, key=row.__getitem__):
            start, end = center(row[package]), center(row[target])
            bend = LEFT - 12 * (row[target] - row[package]) - 8
            parts.append(
                f'<path class="arrow" marker-end="url(#head)" d="M{LEFT},{start}C{max(bend, 4)},{start} '
                f'{max(bend, 4)},{end} {LEFT},{end}"/>'
            )
    for package in order:
        y = center(row[package])
        owns = modules()[package].docstring if package else "Types, errors, seeds, redaction; the public API"
        parts.append(f'<rect class="box" x="{LEFT}" y="{y - 12}" width="{NAME}" height="24" rx="5"/>')
        parts.append(f'<text class="strong" x="{LEFT + 10}" y="{y + 4}">{package or "obverse/*.py"}</text>')
        parts.append(f'<text class="soft" x="{LEFT + NAME + 14}" y="{y + 4}">{escape(shortened(owns))}</text>')
    return as_file(WIDTH, height, "".join(parts), "The packages in their order and their imports")


def center(row: int) -> int:
    """The vertical middle of a row."""
    return TOP + ROW * row


def shortened(text: str) -> str:
    """As many words of a description as fit into a row."""
    text = text.rstrip(".").replace("`", "")
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST - 3].rpartition(' ')[0].rstrip(',;:')}..."
