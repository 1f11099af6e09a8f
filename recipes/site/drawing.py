"""Drawings of the site: SVG elements that follow the page's light or dark scheme, and the same as files."""

from __future__ import annotations

import re

from markupsafe import escape

from obverse.report.svg_chart import DARK, LIGHT, STYLE

DIAGRAM = """\
.diagram text{font:13px system-ui,sans-serif;fill:var(--ink)}
.diagram .soft{fill:var(--soft)}
.diagram .mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.diagram .strong{font-weight:600}
.diagram .box{fill:var(--ground);stroke:var(--soft);stroke-width:1.2}
.diagram .arrow{fill:none;stroke:var(--soft);stroke-width:1.2}
.diagram .head{fill:var(--soft)}
.diagram .rule{stroke:var(--grid);stroke-width:1}
.diagram .up{fill:var(--s0)}
.diagram .down{fill:var(--s1)}
"""
ELEMENT_STYLE = re.compile(r"<style>.*?</style>", re.DOTALL)
GROUND = re.compile(r'<rect class="ground"[^>]*/>')


def inline(svg: str, label: str) -> str:
    """A drawing's file as one line of HTML in the colors of the page; `label` is its caption."""
    element = GROUND.sub("", ELEMENT_STYLE.sub("", svg)).strip().replace("\n", "")
    return f'<figure class="drawing"><div>{element}</div><figcaption>{escape(label)}</figcaption></figure>'


def variables(colors: dict[str, str]) -> str:
    return ";".join(f"--{name}:{color}" for name, color in colors.items())


def as_file(width: int, height: int, body: str, label: str, kind: str = "diagram") -> str:
    """An SVG file of a drawing on a light ground, readable by itself in light and dark surroundings."""
    style = STYLE if kind == "chart" else DIAGRAM
    for name, color in LIGHT.items():
        style = style.replace(f"var(--{name})", color)
    ground = f'<rect class="ground" width="{width}" height="{height}" fill="{LIGHT["ground"]}"/>'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{kind}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    )
    return f"{head}<style>{style}</style>{ground}{body}</svg>\n"


CSS = "\n".join(
    [
        f".drawing{{{variables(LIGHT)}}}",
        f'[data-md-color-scheme="slate"] .drawing{{{variables(DARK)}}}',
        STYLE,
        DIAGRAM,
    ]
)
