"""Figures as files: SVG as `svg_chart` draws it, and PNG converted from the same SVG by resvg."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from obverse.errors import ConfigError, StorageError
from obverse.report.figures import Figure, spoken
from obverse.report.svg_chart import standalone
from obverse.runtime.file_writes import write_atomically

PIXELS = 1200  # width of a PNG
# Sans-serif families in the order of preference; resvg brings no font of its own and does not choose one.
FAMILIES = (
    "Arial",
    "Helvetica",
    "Liberation Sans",
    "Segoe UI",
    "Noto Sans",
    "Roboto",
    "Ubuntu",
    "Open Sans",
    "FreeSans",
    "Verdana",
    "DejaVu Sans",
)
INSTALL = "pip install 'obverse[plots]'"
PROBE = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><text y="15">{}</text></svg>'


def save_pictures(figures: Sequence[Figure], axis: str, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write `<figure>.svg` and `<figure>.png` into `folder`, with curves over `axis`; returns the paths.

    Raises ConfigError where a PNG is requested and cannot be made, StorageError where the folder cannot be written.
    """
    if "png" in formats:
        check_png()
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure in figures:
            chart = figure.chart(axis)
            for name in formats:
                path = folder / f"{figure.key}.{name}"
                write_picture(standalone(chart, spoken(figure, chart)), path)
                paths.append(path)
    except OSError as error:
        raise StorageError(f"pictures cannot be written to {folder}: {error.strerror}; choose --figures") from None
    return paths


def check_png() -> str:
    """The font family that PNG files are drawn with; ConfigError without resvg or without a font."""
    if importlib.util.find_spec("resvg_py") is None:
        raise ConfigError(f"--format png needs resvg: {INSTALL}, or use --format svg")
    family = font_family()
    if family is None:
        raise ConfigError(f"--format png needs one of these fonts: {', '.join(FAMILIES)}; or use --format svg")
    return family


@cache
def font_family(families: Sequence[str] = FAMILIES) -> str | None:
    """The first of the families with which resvg draws a letter; None where the system has none of them.

    For a family that is missing, resvg draws with the system's serif family, so the probe replaces that one too.
    """
    from resvg_py import svg_to_bytes

    blank = svg_to_bytes(svg_string=PROBE.format(""))
    for family in families:
        if svg_to_bytes(svg_string=PROBE.format("a"), font_family=family, serif_family=family) != blank:
            return family
    return None


def to_png(svg: str, width: int = PIXELS) -> bytes:
    """An SVG file's text as PNG, `width` pixels wide on a white ground; ConfigError as in `check_png`."""
    family = check_png()
    from resvg_py import svg_to_bytes

    return svg_to_bytes(svg_string=svg, width=width, background="white", font_family=family, sans_serif_family=family)


def write_picture(svg: str, path: Path) -> None:
    """Write an SVG file's text to `path`: as PNG if the suffix says so, else as it is."""
    write_atomically(path, to_png(svg) if path.suffix == ".png" else svg.encode("utf-8", "backslashreplace"))
