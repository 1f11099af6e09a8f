"""A chart as a value, and its drawing as SVG: lines with bands, stacked areas, bars. No script, no plotting library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from markupsafe import Markup, escape

from obverse.redact import flat

WIDTH, HEIGHT = 460, 270  # of the drawing at its natural size; a page may scale it
LEFT, RIGHT, BOTTOM, LINE = 52, 12, 38, 18
GAP = 24  # between charts that are drawn side by side
MOST_POINTS, FEWEST_POINTS = 150, 40  # of a drawn curve; a longer one is drawn as the means of consecutive values
MOST_POINTS_PER_CHART = 900  # of all its curves together
NUM_COLORS = 8
MOST_NAMES = 8  # of categories that are written side by side; beyond that some are omitted
CHARACTER = 7.0  # mean width in units of the drawing, at the size of the labels

# After Okabe and Ito, in an order that keeps neighbors apart, with a contrast of 3:1 to the background.
LIGHT = {
    **{
        f"s{i}": color
        for i, color in enumerate(
            ("#0072b2", "#d55e00", "#009e73", "#b8568f", "#b37400", "#2f8fc4", "#5a5a5a", "#857a00")
        )
    },
    "ink": "#1b1f24",
    "soft": "#57606a",
    "grid": "#d8dee4",
    "ground": "#ffffff",
}
DARK = {
    **{
        f"s{i}": color
        for i, color in enumerate(
            ("#58a6e8", "#f0814a", "#2fc59b", "#e09ac6", "#e8a833", "#9bd3f5", "#b6bcc4", "#efe36a")
        )
    },
    "ink": "#e8eaed",
    "soft": "#a7b0ba",
    "grid": "#343b44",
    "ground": "#16191d",
}
STYLE = """\
.chart text{font:13px system-ui,sans-serif;fill:var(--soft)}
.chart .grid{stroke:var(--grid);stroke-width:1}
.chart .line{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}
.chart .raw{fill:none;stroke:currentColor;stroke-width:1;opacity:.3}
.chart .dash{stroke-dasharray:6 3}
.chart .band{fill:currentColor;opacity:.16}
.chart .area{fill:currentColor;opacity:.85}
.chart .mark{fill:currentColor}
.chart .whisker{stroke:var(--ink);stroke-width:1.5}
""" + "".join(f".chart .s{i}{{color:var(--s{i})}}\n" for i in range(NUM_COLORS))


@dataclass(frozen=True)
class Series:
    """A named curve: `x` and `y` are [n]; `low` and `high` its band, `raw` what `y` smooths; all [n] or empty."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    raw: tuple[float, ...] = ()
    marks: bool = False  # draw every point: each is a measurement
    color: int | None = None  # None: its index in the chart


@dataclass(frozen=True)
class Chart:
    """The data of a chart. Areas are stacked in the order of the series; for bars `x` is the index of the category."""

    x_label: str
    y_label: str
    series: tuple[Series, ...]
    kind: Literal["lines", "areas", "bars"] = "lines"
    categories: tuple[str, ...] = ()
    percent: bool = False
    log_x: bool = False
    bounds: tuple[float, float] | None = None  # of the y axis; None: from the data

    def y_range(self) -> tuple[float, float]:
        """The ends of the y axis."""
        if self.bounds:
            return self.bounds
        values = [
            v for series in self.series for v in (*series.y, *series.low, *series.high, *series.raw) if math.isfinite(v)
        ]
        low, high = min(values, default=0.0), max(values, default=1.0)
        if self.percent or self.kind == "bars" or 0 <= low < 0.4 * high:
            low = min(low, 0.0)
        return (0.0, 1.0) if low == high == 0 else _apart(low, high)

    def x_range(self) -> tuple[float, float]:
        """The ends of the x axis; a category spans half a unit to either side of its index."""
        if self.kind == "bars":
            return -0.5, max(len(self.categories), 1) - 0.5
        values = [value for series in self.series for value in series.x if math.isfinite(value)]
        return _apart(min(values, default=0.0), max(values, default=1.0))


def _apart(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis, moved apart where they are too close for a division."""
    size = max(abs(low), abs(high))
    if high - low > 1e-9 * size:
        return low, high
    margin = max(0.5, 1e-3 * size)
    return low - margin, high + margin


@dataclass(frozen=True)
class Frame:
    """The mapping from data to the drawing: the ranges of both axes, and the top and bottom edge in its units."""

    x: tuple[float, float]
    y: tuple[float, float]
    top: float
    bottom: float
    log_x: bool

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The coordinates of a point, in units of the drawing."""
        low, high = map(self._x, self.x)
        across = (self._x(x) - low) / (high - low)
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), self.bottom - up * (self.bottom - self.top)

    def _x(self, value: float) -> float:
        return math.log2(value) if self.log_x else value


def ticks(low: float, high: float, num: int = 5, whole: bool = False) -> list[float]:
    """About `num` round numbers from `low` to `high`, only integers if `whole`."""
    raw = max((high - low) / num, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(max(raw, 1e-300)))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float, percent: bool = False) -> str:
    """A number for readers: `42.0%`, `0.05`, `1,200`, `1.2M`, `3.4e+15`; a dash if it is not finite."""
    if not math.isfinite(value):
        return "-"
    if percent:
        return f"{100 * value:.1f}%"
    size = abs(value)
    if size >= 1e12 or 0 < size < 1e-3:
        return f"{value:.2g}"
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            scale = 1e3 if name == "k" else unit
            return f"{value / scale:.4g}{name}"
    return f"{value:,.4g}" if size < 1000 else f"{value:,.0f}"


def most_points(chart: Chart) -> int:
    """The most points per curve of a chart, which limits the size of a page with many curves."""
    return max(FEWEST_POINTS, min(MOST_POINTS, MOST_POINTS_PER_CHART // max(len(chart.series), 1)))


def thin(values: Sequence[float], most: int = MOST_POINTS) -> list[float]:
    """At most `most` values: means of consecutive values. Values that are not finite are left out of a mean."""
    if len(values) <= most:
        return list(values)
    cuts = [i * len(values) // most for i in range(most + 1)]
    stretches = [[v for v in values[a:b] if math.isfinite(v)] for a, b in pairwise(cuts)]
    return [sum(stretch) / len(stretch) if stretch else math.nan for stretch in stretches]


def draw(chart: Chart, label: str, style: str = "") -> Markup:
    """The chart as an SVG element with `label` for screen readers; with `style`, as a complete SVG file."""
    rows = list(_legend_rows(chart))
    top = 28 + LINE * len(rows)
    height = height_of(chart)
    frame = Frame(chart.x_range(), chart.y_range(), top, height - BOTTOM, chart.log_x)
    parts = [*_axes(chart, frame, height), *_legend(rows)]
    shapes = {"lines": _lines, "areas": _areas, "bars": _bars}[chart.kind]
    parts += shapes(chart, frame)
    (x0, x1), (y0, y1) = frame.x, frame.y
    data = f'data-frame="{LEFT} {top} {WIDTH - LEFT - RIGHT} {frame.bottom - top}" data-x="{x0:.8g} {x1:.8g}" '
    data += f'data-y="{y0:.8g} {y1:.8g}" data-kind="{chart.kind}"'
    data += (' data-log=""' if chart.log_x else "") + (' data-percent=""' if chart.percent else "")
    extra = f'xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" ' if style else ""
    body = "".join([f"<style>{style}</style>" if style else "", *parts])
    head = f'<svg {extra}class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{_safe(label)}" {data}>'
    return Markup(f"{head}{body}</svg>")  # every text in it passed _safe


def height_of(chart: Chart) -> int:
    """The height of a chart's drawing, which grows with the rows of its legend; its width is always WIDTH."""
    return HEIGHT + LINE * max(len(list(_legend_rows(chart))) - 1, 0)


def side_by_side(charts: Sequence[tuple[Chart, str]], columns: int) -> str:
    """Several charts with their labels as one SVG file in light colors, filled row by row."""
    width, height = WIDTH + GAP, max(height_of(chart) for chart, _ in charts) + GAP
    total = (width * min(columns, len(charts)) - GAP, height * math.ceil(len(charts) / columns) - GAP)
    parts = []
    for index, (chart, label) in enumerate(charts):
        x, y = index % columns * width, index // columns * height
        element = draw(chart, label).removeprefix("<svg ")
        parts.append(f'<svg x="{x}" y="{y}" width="{WIDTH}" height="{height_of(chart)}" {element}')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{total[0]}" height="{total[1]}" role="img">'
    return f"{head}<style>{_light_style()}</style>{''.join(parts)}</svg>\n"


def standalone(chart: Chart, label: str) -> str:
    """The chart as an SVG file in light colors, without CSS variables, which many programs do not support."""
    return str(draw(chart, label, _light_style())) + "\n"


def _light_style() -> str:
    """STYLE with the light colors in place of its variables."""
    style = STYLE
    for name, color in LIGHT.items():
        style = style.replace(f"var(--{name})", color)
    return style


def _safe(text: str) -> Markup:
    """Text with control characters written out and markup escaped."""
    return escape(flat(text))


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{_safe(text)}</text>'


def _axes(chart: Chart, frame: Frame, height: float) -> Iterator[str]:
    for value in ticks(*frame.y):
        y = frame.at(frame.x[0], value)[1]
        yield f'<path class="grid" d="M{LEFT},{y:.1f}H{WIDTH - RIGHT}"/>'
        yield _text(LEFT - 6, y + 4, number(value, chart.percent).replace(".0%", "%"), "end")
    if chart.kind == "bars":
        most = int((WIDTH - LEFT - RIGHT) / CHARACTER / max(min(len(chart.categories), MOST_NAMES), 1))
        names = [name if len(name) <= most else f"{name[: most - 3]}..." for name in chart.categories]
        labels: list[tuple[float, str]] = [(float(i), name) for i, name in enumerate(names)]
    elif chart.log_x:
        labels = [(x, number(x)) for x in sorted({x for series in chart.series for x in series.x if math.isfinite(x)})]
    else:
        whole = all(float(x).is_integer() for series in chart.series for x in series.x if math.isfinite(x))
        labels = [(value, number(value)) for value in ticks(*frame.x, whole=whole)]
    end_of_label = -math.inf
    for value, text in labels:
        x, half = frame.at(value, frame.y[0])[0], len(text) * CHARACTER / 2
        if x - half > end_of_label:
            yield _text(min(x, WIDTH - half), height - 22, text, "middle")
            end_of_label = x + half + 4
    yield _text(0, 14, chart.y_label)
    yield _text(WIDTH - RIGHT, height - 5, chart.x_label, "end")


def _legend_rows(chart: Chart) -> Iterator[list[tuple[float, int, str]]]:
    """Rows of (x, color, name of the series); no row where no series has a name."""
    row: list[tuple[float, int, str]] = []
    x = 0.0
    for i, series in enumerate(chart.series):
        width = 24 + len(series.name) * CHARACTER + 10
        if row and x + width > WIDTH:
            yield row
            row, x = [], 0.0
        if series.name:
            row.append((x, _color(i, series), series.name))
        x += width
    if row:
        yield row


def _legend(rows: Sequence[Sequence[tuple[float, int, str]]]) -> Iterator[str]:
    for index, row in enumerate(rows):
        y = 16 + LINE * (index + 1)
        for x, i, name in row:
            yield f'<path class="line {_class(i)}" d="M{x:.0f},{y - 4}h18"/>'
            yield _text(x + 23, y, name)


def _color(i: int, series: Series) -> int:
    return i if series.color is None else series.color


def _class(color: int) -> str:
    """CSS classes of a color number; the numbers after NUM_COLORS are dashed."""
    return f"s{color % NUM_COLORS}" + (" dash" if color // NUM_COLORS % 2 else "")


def _path(frame: Frame, x: Sequence[float], y: Sequence[float]) -> str:
    """Path data of a curve, interrupted where a value is not finite."""
    commands, pen = [], "M"
    for x_value, y_value in zip(x, y, strict=True):
        if not math.isfinite(y_value):
            pen = "M"
            continue
        x_drawn, y_drawn = frame.at(x_value, y_value)
        commands.append(f"{pen}{x_drawn:.1f},{y_drawn:.1f}")
        pen = "L"
    return "".join(commands)


def _lines(chart: Chart, frame: Frame) -> Iterator[str]:
    curves = [(_color(i, series), series) for i, series in enumerate(chart.series) if series.x]
    most = most_points(chart)
    for i, series in curves:
        x = thin(series.x, most)
        if series.low and not series.marks:
            pairs = [
                p
                for p in zip(x, thin(series.low, most), thin(series.high, most), strict=True)
                if math.isfinite(p[1] + p[2])
            ]
            upper = _path(frame, [p[0] for p in pairs], [p[2] for p in pairs])
            lower = _path(frame, [p[0] for p in pairs[::-1]], [p[1] for p in pairs[::-1]])
            yield f'<path class="band s{i % NUM_COLORS}" d="{upper}L{lower[1:]}Z"/>' if pairs else ""
        if series.raw:
            yield f'<path class="raw s{i % NUM_COLORS}" d="{_path(frame, x, thin(series.raw, most))}"/>'
    for i, series in curves:
        curve = _path(frame, thin(series.x, most), thin(series.y, most))
        yield f'<path class="line {_class(i)}" data-name="{_safe(series.name)}" d="{curve}"/>'
        for j, (x_value, y_value) in enumerate(zip(series.x, series.y, strict=True) if series.marks else ()):
            if not math.isfinite(x_value + y_value):
                continue
            a, b = frame.at(x_value, y_value)
            yield f'<circle class="mark s{i % NUM_COLORS}" cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>'
            if series.low:
                low, high = frame.at(x_value, series.low[j])[1], frame.at(x_value, series.high[j])[1]
                yield f'<path class="line s{i % NUM_COLORS}" d="M{a:.1f},{low:.1f}V{high:.1f}"/>'


def _areas(chart: Chart, frame: Frame) -> Iterator[str]:
    base = [0.0] * len(thin(chart.series[0].x)) if chart.series else []
    for i, series in enumerate(chart.series):
        x = thin(series.x)
        tops = [bottom + value for bottom, value in zip(base, thin(series.y), strict=True)]
        upper, lower = _path(frame, x, tops), _path(frame, x[::-1], base[::-1])
        yield f'<path class="area s{_color(i, series) % NUM_COLORS}" d="{upper}L{lower[1:]}Z"/>'
        base = tops


def _bars(chart: Chart, frame: Frame) -> Iterator[str]:
    width = 0.8 / max(len(chart.series), 1)
    for i, series in enumerate(chart.series):
        for j, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
            if not math.isfinite(y):
                continue
            start = x - 0.4 + i * width
            (a, top), (b, bottom) = frame.at(start, max(y, 0)), frame.at(start + width, min(y, 0))
            size = f'width="{max(b - a - 1, 1):.1f}" height="{bottom - top:.1f}"'
            yield f'<rect class="area s{_color(i, series) % NUM_COLORS}" x="{a:.1f}" y="{top:.1f}" {size}/>'
            if series.low:
                low, high = frame.at(x, series.low[j])[1], frame.at(x, series.high[j])[1]
                yield f'<path class="whisker" d="M{(a + b) / 2:.1f},{low:.1f}V{high:.1f}"/>'
