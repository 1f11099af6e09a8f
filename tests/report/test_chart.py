"""Charts: coordinates, labels, and SVG files."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest

from obverse.report.svg_chart import (
    DARK,
    LIGHT,
    NUM_COLORS,
    Chart,
    Frame,
    Series,
    draw,
    number,
    standalone,
    thin,
    ticks,
)

NAN = math.nan


def paths(chart: Chart, kind: str) -> list[str]:
    """The path data of the shapes of a class."""
    svg = str(draw(chart, "label"))
    return re.findall(rf'<path class="{kind}[^"]*"(?: data-name="[^"]*")? d="([^"]*)"', svg)


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+),([-\d.]+)", path)]


def test_a_frame_puts_the_ends_at_its_borders() -> None:
    frame = Frame((0, 10), (0, 1), top=20, bottom=220, log_x=False)
    assert frame.at(0, 0) == (52, 220) and frame.at(10, 1) == (448, 20) and frame.at(5, 0.5) == (250, 120)
    tries = Frame((1, 64), (0, 1), top=20, bottom=220, log_x=True)
    assert tries.at(8, 0) == (250, 220)


@pytest.mark.parametrize(
    ("low", "high", "whole", "wanted"),
    [
        (0, 1, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.43, 0.52, False, [0.44, 0.46, 0.48, 0.5, 0.52]),
        (1, 12, True, [5, 10]),
        (1, 3, True, [1, 2, 3]),
        (-1, 1, False, [-1, -0.5, 0, 0.5, 1]),
        (0, 1.3e15, False, [0, 5e14, 1e15]),
    ],
)
def test_ticks_are_round(low: float, high: float, whole: bool, wanted: list[float]) -> None:
    assert ticks(low, high, whole=whole) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("value", "percent", "wanted"),
    [
        (0.4257, True, "42.6%"),
        (NAN, True, "-"),
        (0.0, False, "0"),
        (0.05123, False, "0.05123"),
        (1234.0, False, "1,234"),
        (12345.0, False, "12.35k"),
        (2.0886e6, False, "2.089M"),
        (8.4e12, False, "8.4e+12"),
        (-0.00012, False, "-0.00012"),
    ],
)
def test_numbers_for_readers(value: float, percent: bool, wanted: str) -> None:
    assert number(value, percent) == wanted


def test_many_points_become_means_of_stretches() -> None:
    assert thin([1.0, 3.0, 5.0, NAN], 2) == [2.0, 5.0] and thin([1.0, 2.0], 2) == [1.0, 2.0]
    assert math.isnan(thin([NAN, NAN, 1.0, 1.0], 2)[0])
    values = [float(i) for i in range(1000)]
    assert len(thin(values)) == 150 and sum(thin(values, 100)) / 100 == pytest.approx(499.5)


def test_a_line_breaks_where_there_is_no_number() -> None:
    chart = Chart("x", "y", (Series("", (1, 2, 3, 4), (0.0, 0.5, NAN, 1.0)),))
    (line,) = paths(chart, "line")
    assert line.count("M") == 2 and len(points(line)) == 3
    assert points(line)[0] == (52, 232) and points(line)[-1] == (448, 28)


def test_a_band_is_a_closed_shape() -> None:
    series = Series("a", (0, 1), (0.5, 0.5), low=(0.0, 0.25), high=(1.0, 0.75))
    (band,) = paths(Chart("x", "y", (series,), bounds=(0, 1)), "band")
    assert points(band) == [(52, 46), (448, 92.5), (448, 185.5), (52, 232)] and band.endswith("Z")


def test_areas_are_stacked() -> None:
    series = (Series("a", (0, 1), (0.25, 0.5)), Series("b", (0, 1), (0.75, 0.5)))
    first, second = paths(Chart("x", "y", series, "areas", bounds=(0, 1)), "area")
    assert points(first)[:2] == points(second)[:1:-1], "the second area begins where the first ends"
    assert [y for _, y in points(second)[:2]] == [46, 46]


def test_bars_have_their_height() -> None:
    series = (Series("a", (0, 1), (0.25, 1.0), low=(0.0, 0.5), high=(0.5, 1.0)),)
    chart = Chart("", "y", series, "bars", ("p", "q"), percent=True, bounds=(0, 1))
    svg = str(draw(chart, "label"))
    assert [float(h) for h in re.findall(r'<rect [^>]*height="([\d.]+)"', svg)] == [46.5, 186.0]
    assert svg.count('class="whisker"') == 2 and ">p<" in svg and ">q<" in svg


def test_long_names_of_bars_do_not_run_into_each_other() -> None:
    chart = Chart(
        "", "y", (Series("", (0, 1), (1, 2)),), "bars", ("short", "a name that is much too long for its place")
    )
    drawn = re.findall(r">([^<>]+)</text>", str(draw(chart, "label")))
    assert "short" in drawn and "a name that is much too l..." in drawn


def test_a_color_belongs_to_a_name_and_beyond_the_colors_there_are_dashes() -> None:
    svg = str(draw(Chart("x", "y", (Series("a", (0, 1), (0, 1), color=NUM_COLORS + 2),)), "label"))
    assert svg.count('class="line s2 dash"') == 2, "its curve and its sample in the legend"


def test_names_are_text() -> None:
    svg = str(draw(Chart("x", "<y>", (Series('"><script>\x1b', (0, 1), (0, 1)),)), '"<label>"'))
    root = ET.fromstring(svg)
    assert not [element for element in root.iter() if element.tag.endswith("script")] and "\x1b" not in svg
    assert root.attrib["aria-label"] == '"<label>"'


def test_a_file_has_no_css_variables() -> None:
    root = ET.fromstring(standalone(Chart("x", "y", (Series("a", (0, 1), (0, 1)),)), "label"))
    style = "".join(root.itertext())
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and LIGHT["s0"] in style and "var(" not in style


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colors", [LIGHT, DARK])
def test_contrast(colors: dict[str, str]) -> None:
    """WCAG 2.2: 3:1 for what is drawn (1.4.11), 4.5:1 for what is read (1.4.3)."""

    def contrast(name: str) -> float:
        low, high = sorted((luminance(colors[name]), luminance(colors["ground"])))
        return (high + 0.05) / (low + 0.05)

    assert all(contrast(f"s{i}") >= 3 for i in range(NUM_COLORS))
    assert contrast("ink") >= 4.5 and contrast("soft") >= 4.5 and contrast("s0") >= 4.5
