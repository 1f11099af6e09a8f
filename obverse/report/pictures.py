"""Every figure as a file of its own: SVG by our own drawing, PNG by matplotlib from the same numbers."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from obverse.errors import ConfigError, StorageError
from obverse.report.figures import Figure, spoken
from obverse.report.svg_chart import LIGHT, NUM_COLORS, Chart, number, standalone
from obverse.runtime.file_writes import write_atomically

DPI = 200


def save_pictures(figures: Sequence[Figure], axis: str, folder: Path, formats: Sequence[str]) -> list[Path]:
    """`<figure>.svg` and `.png` in `folder`, on one axis; ConfigError where matplotlib is needed and missing."""
    if "png" in formats and importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--format png needs matplotlib: pip install matplotlib, or ask for svg")
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure in figures:
            chart = figure.chart(axis)
            for name in formats:
                path = folder / f"{figure.key}.{name}"
                if name == "svg":
                    write_atomically(path, standalone(chart, spoken(figure, chart)).encode("utf-8", "backslashreplace"))
                else:
                    save_png(chart, figure.title, path)
                written.append(path)
    except OSError as error:
        raise StorageError(f"pictures cannot be written to {folder}: {error.strerror}; choose --figures") from None
    return written


def save_png(chart: Chart, title: str, path: Path) -> None:
    """The chart drawn by matplotlib, 1200 pixels wide."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(6, 3.6), layout="constrained")
    axes = canvas.subplots()
    numbers = [i if each.color is None else each.color for i, each in enumerate(chart.series)]
    colors = [LIGHT[f"s{i % NUM_COLORS}"] for i in numbers]
    {"lines": _lines, "areas": _areas, "bars": _bars}[chart.kind](axes, chart, colors)
    axes.set(title=title, xlabel=chart.x_label, ylabel=chart.y_label)
    axes.set_ylim(*chart.y_range())
    axes.margins(x=0.01)
    axes.yaxis.set_major_formatter(lambda value, _: number(value, chart.percent))
    axes.grid(axis="y", color=LIGHT["grid"])
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if any(each.name for each in chart.series) and len(chart.series) > 1:
        axes.legend(fontsize="small", frameon=False)
    with rc_context({"text.parse_math": False}):  # a dollar in a name is a dollar
        canvas.savefig(path, dpi=DPI)


def _lines(axes: Any, chart: Chart, colors: Sequence[str]) -> None:
    for each, color in zip(chart.series, colors, strict=True):
        if each.raw:
            axes.plot(each.x, each.raw, color=color, alpha=0.3, linewidth=0.8)
        if each.low:
            axes.fill_between(each.x, each.low, each.high, color=color, alpha=0.16, linewidth=0)
        axes.plot(each.x, each.y, color=color, label=each.name, marker="o" if each.marks else "", markersize=4)
    if chart.log_x:
        places = sorted({x for each in chart.series for x in each.x})
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [number(x) for x in places])


def _areas(axes: Any, chart: Chart, colors: Sequence[str]) -> None:
    axes.stackplot(
        chart.series[0].x,
        *(each.y for each in chart.series),
        colors=colors,
        labels=[each.name for each in chart.series],
    )


def _bars(axes: Any, chart: Chart, colors: Sequence[str]) -> None:
    width = 0.8 / len(chart.series)
    for i, (each, color) in enumerate(zip(chart.series, colors, strict=True)):
        places = [x - 0.4 + (i + 0.5) * width for x in each.x]
        axes.bar(places, each.y, width=width * 0.95, color=color, label=each.name)
        if each.low:
            axes.vlines(places, each.low, each.high, color=LIGHT["ink"], linewidth=1)
    axes.set_xticks(range(len(chart.categories)), chart.categories)
