"""A chart as a value, and its drawing as SVG: lines with bands, areas of shares, bars. No script, no library."""

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
MOST_POINTS, FEWEST_POINTS = 150, 40  # of a drawn curve; more of them are drawn as means of stretches
POINTS_OF_ALL = 900  # of all curves of a chart together, where they are many
NUM_COLORS = 8
MOST_NAMES = 8  # of categories that are written side by side; of more some are left out
CHARACTER = 7.0  # mean width of one at the size of the labels

# After Okabe and Ito, in an order that keeps neighbors apart, darkened or lightened to 3:1 on their ground.
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
    marks: bool = False  # every point is a measurement of its own
    color: int | None = None  # None: by its place in the chart


@dataclass(frozen=True)
class Chart:
    """What is drawn. Areas lie on each other in the series' order; of bars `x` is the number of the category."""

    x_label: str
    y_label: str
    series: tuple[Series, ...]
    kind: Literal["lines", "areas", "bars"] = "lines"
    categories: tuple[str, ...] = ()
    percent: bool = False
    log_x: bool = False
    bounds: tuple[float, float] | None = None  # of y, where they are known

    def y_range(self) -> tuple[float, float]:
        """The lowest and the highest y that must have a place."""
        if self.bounds:
            return self.bounds
        values = [v for each in self.series for v in (*each.y, *each.low, *each.high, *each.raw) if math.isfinite(v)]
        low, high = min(values, default=0.0), max(values, default=1.0)
        if self.percent or self.kind == "bars" or 0 <= low < 0.4 * high:
            low = min(low, 0.0)
        return (0.0, 1.0) if low == high == 0 else _apart(low, high)

    def x_range(self) -> tuple[float, float]:
        """The same of x; a category takes the place from half a unit before to half a unit behind its number."""
        if self.kind == "bars":
            return -0.5, max(len(self.categories), 1) - 0.5
        values = [value for each in self.series for value in each.x if math.isfinite(value)]
        return _apart(min(values, default=0.0), max(values, default=1.0))


def _apart(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis, so far apart that places between them differ."""
    size = max(abs(low), abs(high))
    if high - low > 1e-9 * size:
        return low, high
    room = max(0.5, 1e-3 * size)
    return low - room, high + room


@dataclass(frozen=True)
class Frame:
    """Where numbers lie on the drawing."""

    x: tuple[float, float]
    y: tuple[float, float]
    top: float
    bottom: float
    log_x: bool

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a point, in units of the drawing."""
        low, high = map(self._x, self.x)
        across = (self._x(x) - low) / (high - low)
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), self.bottom - up * (self.bottom - self.top)

    def _x(self, value: float) -> float:
        return math.log2(value) if self.log_x else value


def ticks(low: float, high: float, num: int = 5, whole: bool = False) -> list[float]:
    """About `num` round numbers from `low` to `high`, only whole ones if asked for."""
    raw = max((high - low) / num, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(max(raw, 1e-300)))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float, percent: bool = False) -> str:
    """A number as a reader wants it: `42.0%`, `0.05`, `1,200`, `1.2M`, `3.4e+15`; a dash for none."""
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
    """How many points each curve of a chart is drawn with: a page with many curves must not become too large."""
    return max(FEWEST_POINTS, min(MOST_POINTS, POINTS_OF_ALL // max(len(chart.series), 1)))


def thin(values: Sequence[float], most: int = MOST_POINTS) -> list[float]:
    """At most `most` values: each the mean of a stretch of them; what is not finite is left out of its mean."""
    if len(values) <= most:
        return list(values)
    cuts = [i * len(values) // most for i in range(most + 1)]
    stretches = [[v for v in values[a:b] if math.isfinite(v)] for a, b in pairwise(cuts)]
    return [sum(stretch) / len(stretch) if stretch else math.nan for stretch in stretches]


def draw(chart: Chart, label: str, style: str = "") -> Markup:
    """The chart as an SVG element; `label` is what a screen reader says. `style` makes a file that stands alone."""
    rows = list(_legend_rows(chart))
    top = 28 + LINE * len(rows)
    height = HEIGHT + LINE * max(len(rows) - 1, 0)
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
    return Markup(f"{head}{body}</svg>")  # every text in it went through _safe


def standalone(chart: Chart, label: str) -> str:
    """A file of its own: the light colors written out, for programs that know no variables."""
    style = STYLE
    for name, color in LIGHT.items():
        style = style.replace(f"var(--{name})", color)
    return str(draw(chart, label, style)) + "\n"


def _safe(text: str) -> Markup:
    """Text from outside as text: no control character, nothing that markup knows."""
    return escape(flat(text))


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{_safe(text)}</text>'


def _axes(chart: Chart, frame: Frame, height: float) -> Iterator[str]:
    for value in ticks(*frame.y):
        y = frame.at(frame.x[0], value)[1]
        yield f'<path class="grid" d="M{LEFT},{y:.1f}H{WIDTH - RIGHT}"/>'
        yield _text(LEFT - 6, y + 4, number(value, chart.percent).replace(".0%", "%"), "end")
    if chart.kind == "bars":
        room = int((WIDTH - LEFT - RIGHT) / CHARACTER / max(min(len(chart.categories), MOST_NAMES), 1))
        names = [name if len(name) <= room else f"{name[: room - 3]}..." for name in chart.categories]
        places: list[tuple[float, str]] = [(float(i), name) for i, name in enumerate(names)]
    elif chart.log_x:
        places = [(x, number(x)) for x in sorted({x for each in chart.series for x in each.x if math.isfinite(x)})]
    else:
        whole = all(float(x).is_integer() for each in chart.series for x in each.x if math.isfinite(x))
        places = [(value, number(value)) for value in ticks(*frame.x, whole=whole)]
    last = -math.inf
    for value, text in places:
        x, half = frame.at(value, frame.y[0])[0], len(text) * CHARACTER / 2
        if x - half > last:
            yield _text(min(x, WIDTH - half), height - 22, text, "middle")
            last = x + half + 4
    yield _text(0, 14, chart.y_label)
    yield _text(WIDTH - RIGHT, height - 5, chart.x_label, "end")


def _legend_rows(chart: Chart) -> Iterator[list[tuple[float, int, str]]]:
    """Rows of (x, number of the series, its name), as many as the names need; none for a single nameless one."""
    row: list[tuple[float, int, str]] = []
    x = 0.0
    for i, each in enumerate(chart.series):
        width = 24 + len(each.name) * CHARACTER + 10
        if row and x + width > WIDTH:
            yield row
            row, x = [], 0.0
        if each.name:
            row.append((x, _color(i, each), each.name))
        x += width
    if row:
        yield row


def _legend(rows: Sequence[Sequence[tuple[float, int, str]]]) -> Iterator[str]:
    for number_of_row, row in enumerate(rows):
        y = 16 + LINE * (number_of_row + 1)
        for x, i, name in row:
            yield f'<path class="line {_class(i)}" d="M{x:.0f},{y - 4}h18"/>'
            yield _text(x + 23, y, name)


def _color(i: int, series: Series) -> int:
    return i if series.color is None else series.color


def _class(color: int) -> str:
    """Beyond the colors there are dashes."""
    return f"s{color % NUM_COLORS}" + (" dash" if color // NUM_COLORS % 2 else "")


def _path(frame: Frame, x: Sequence[float], y: Sequence[float]) -> str:
    """A curve; it is broken where there is no number."""
    pieces, pen = [], "M"
    for place, value in zip(x, y, strict=True):
        if not math.isfinite(value):
            pen = "M"
            continue
        a, b = frame.at(place, value)
        pieces.append(f"{pen}{a:.1f},{b:.1f}")
        pen = "L"
    return "".join(pieces)


def _lines(chart: Chart, frame: Frame) -> Iterator[str]:
    curves = [(_color(i, each), each) for i, each in enumerate(chart.series) if each.x]
    most = most_points(chart)
    for i, each in curves:
        x = thin(each.x, most)
        if each.low and not each.marks:
            pairs = [
                p
                for p in zip(x, thin(each.low, most), thin(each.high, most), strict=True)
                if math.isfinite(p[1] + p[2])
            ]
            there = _path(frame, [p[0] for p in pairs], [p[2] for p in pairs])
            back = _path(frame, [p[0] for p in pairs[::-1]], [p[1] for p in pairs[::-1]])
            yield f'<path class="band s{i % NUM_COLORS}" d="{there}L{back[1:]}Z"/>' if pairs else ""
        if each.raw:
            yield f'<path class="raw s{i % NUM_COLORS}" d="{_path(frame, x, thin(each.raw, most))}"/>'
    for i, each in curves:
        curve = _path(frame, thin(each.x, most), thin(each.y, most))
        yield f'<path class="line {_class(i)}" data-name="{_safe(each.name)}" d="{curve}"/>'
        for j, (x_value, y_value) in enumerate(zip(each.x, each.y, strict=True) if each.marks else ()):
            if not math.isfinite(x_value + y_value):
                continue
            a, b = frame.at(x_value, y_value)
            yield f'<circle class="mark s{i % NUM_COLORS}" cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>'
            if each.low:
                low, high = frame.at(x_value, each.low[j])[1], frame.at(x_value, each.high[j])[1]
                yield f'<path class="line s{i % NUM_COLORS}" d="M{a:.1f},{low:.1f}V{high:.1f}"/>'


def _areas(chart: Chart, frame: Frame) -> Iterator[str]:
    floor = [0.0] * len(thin(chart.series[0].x)) if chart.series else []
    for i, each in enumerate(chart.series):
        x = thin(each.x)
        roof = [under + value for under, value in zip(floor, thin(each.y), strict=True)]
        there, back = _path(frame, x, roof), _path(frame, x[::-1], floor[::-1])
        yield f'<path class="area s{_color(i, each) % NUM_COLORS}" d="{there}L{back[1:]}Z"/>'
        floor = roof


def _bars(chart: Chart, frame: Frame) -> Iterator[str]:
    width = 0.8 / max(len(chart.series), 1)
    for i, each in enumerate(chart.series):
        for j, (place, value) in enumerate(zip(each.x, each.y, strict=True)):
            if not math.isfinite(value):
                continue
            start = place - 0.4 + i * width
            (a, top), (b, bottom) = frame.at(start, max(value, 0)), frame.at(start + width, min(value, 0))
            size = f'width="{max(b - a - 1, 1):.1f}" height="{bottom - top:.1f}"'
            yield f'<rect class="area s{_color(i, each) % NUM_COLORS}" x="{a:.1f}" y="{top:.1f}" {size}/>'
            if each.low:
                low, high = frame.at(place, each.low[j])[1], frame.at(place, each.high[j])[1]
                yield f'<path class="whisker" d="M{(a + b) / 2:.1f},{low:.1f}V{high:.1f}"/>'
