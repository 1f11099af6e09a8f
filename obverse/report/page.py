"""Rendering the page: one HTML file that loads nothing and treats every text from outside as plain text."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from obverse.redact import flat
from obverse.report.completions import Picked
from obverse.report.figures import Figure, spoken, table_of
from obverse.report.load_runs import AXES, FLOPS
from obverse.report.svg_chart import DARK, LIGHT, STYLE, draw
from obverse.report.tables import Table
from obverse.version import __version__

ASSETS = resources.files("obverse.report")


@dataclass(frozen=True)
class Section:
    """A section of the page after the training curves: an introduction, figures and tables."""

    id: str
    name: str
    intro: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    shaded: Sequence[Mapping[str, Any]] = ()  # completions with tokens shaded by their coefficients


@dataclass(frozen=True)
class Page:
    """The content of a page."""

    title: str
    subtitle: str
    lines: Sequence[str]
    headline: Sequence[Table]
    curves: Sequence[Figure]
    sections: Sequence[Section]
    settings: Sequence[Table]
    runs: Sequence[str]  # names; completions refer to a run by its index
    picked: Sequence[Picked]
    axis: str = "steps"


def render(page: Page) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("obverse", "report"), autoescape=True, undefined=StrictUndefined, finalize=harmless
    )
    style, script = palette() + STYLE + asset("page.css"), asset("page.js")
    axes = {axis: name for axis, name in AXES.items() if all(axis in figure.charts for figure in page.curves)}
    omissions = [
        f"{name}: {picked.omissions()}" if len(page.runs) > 1 else picked.omissions()
        for name, picked in zip(page.runs, page.picked, strict=True)
    ]
    names = [("summary", "Summary"), *([("curves", "Training")] if page.curves else [])]
    names += [(section.id, section.name) for section in page.sections]
    island = {
        "runs": [flat(name) for name in page.runs],
        "groups": [group for picked in page.picked for group in picked.groups],
    }
    return environment.get_template("page.html").render(
        title=page.title,
        subtitle=page.subtitle,
        lines=page.lines,
        headline=page.headline,
        curves=[viewed(figure) for figure in page.curves],
        others=[(section, [viewed(figure) for figure in section.figures]) for section in page.sections],
        settings=page.settings,
        sections=[*names, ("completions", "Completions"), ("configuration", "Configuration")],
        axes=axes,
        chosen=page.axis if page.axis in axes else "steps",
        flops=FLOPS,
        omissions=omissions,
        style=Markup(style),
        style_hash=hash_of(style),
        script=Markup(script),
        script_hash=hash_of(script),
        island=island_of(island),
        version=__version__,
    )


def harmless(value: Any) -> Any:
    """Text with control characters written out, before it is escaped; markup is returned unchanged."""
    return flat(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def viewed(figure: Figure) -> dict[str, Any]:
    """A figure for the template: a drawing and a table per axis."""
    views = []
    for axis, chart in figure.charts.items():
        header, rows = table_of(chart)
        views.append({"axis": axis, "drawing": draw(chart, spoken(figure, chart)), "header": header, "rows": rows})
    return {"key": figure.key, "title": figure.title, "meaning": figure.meaning, "views": views}


def palette() -> str:
    """The colors as CSS variables: light, or dark by the system's setting or the button."""

    def rules(colors: Mapping[str, str]) -> str:
        return "".join(f"--{name}:{color};" for name, color in colors.items())

    return (
        f":root{{{rules(LIGHT)}}}\n"
        f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{rules(DARK)}}}}}\n"
        f":root[data-theme=dark]{{color-scheme:dark;{rules(DARK)}}}\n:root[data-theme=light]{{color-scheme:light}}\n"
    )


def asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def hash_of(text: str) -> str:
    """The source expression that allows this text in a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def island_of(value: Any) -> Markup:
    """JSON inside a script element of type application/json: no character in it can end that element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)  # contains no character with a meaning in HTML
