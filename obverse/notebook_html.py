"""HTML that notebooks show of objects: self-contained, readable on light and dark pages, with every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from obverse.redact import flat

MOST_CHARACTERS = 300  # of a text in a cell
COLORS = ("#2f8fc4", "#dd6b33", "#1f9e78", "#b8699b", "#b38420", "#5f9fd0", "#8a8f98", "#938a1c")  # of curves

STYLE = """\
.obverse{font:14px/1.45 system-ui,sans-serif;--ink:currentColor;\
--soft:color-mix(in srgb,currentColor 70%,transparent);--grid:color-mix(in srgb,currentColor 20%,transparent)}
.obverse table{font:inherit;color:inherit;border-collapse:collapse;margin:.4em 0}
.obverse th,.obverse td{padding:2px 10px 2px 0;vertical-align:top;border-bottom:1px solid var(--grid);\
white-space:pre-wrap;background:none}
.obverse th.text,.obverse td.text{text-align:left}
.obverse th.number,.obverse td.number{text-align:right;font-variant-numeric:tabular-nums}
.obverse .soft{color:var(--soft)}
.obverse .charts{display:flex;flex-wrap:wrap;gap:12px}
.obverse .charts svg{display:block;width:420px;max-width:100%}
.obverse .tokens{white-space:pre-wrap;font-family:ui-monospace,monospace;line-height:1.7}
"""


def block(*parts: str, style: str = "") -> str:
    """Parts of HTML as one element with its style."""
    colors = ";".join(f"--s{number}:{color}" for number, color in enumerate(COLORS))
    return f'<div class="obverse" style="{colors}"><style>{STYLE}{style}</style>{"".join(parts)}</div>'


def text(value: Any, most: int = MOST_CHARACTERS) -> str:
    """A value as escaped text: numbers with four digits, large ones whole, nothing for None, long text cut."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"
    content = flat(value)
    return escape(content if len(content) <= most else f"{content[:most]} ...")


def paragraph(content: str, is_soft: bool = False) -> str:
    """A line of text; `content` is HTML."""
    return f'<div class="{"soft" if is_soft else "line"}">{content}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of values; columns of numbers are aligned to the right."""
    cells = [list(row) for row in rows]
    kinds = [_kind([row[number] for row in cells]) for number in range(len(header))]
    head = "".join(f'<th class="{kind}">{text(name)}</th>' for name, kind in zip(header, kinds, strict=True))
    body = "".join(f"<tr>{_row(row, kinds)}</tr>" for row in cells)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(cells: Sequence[Any], kinds: Sequence[str]) -> str:
    return "".join(f'<td class="{kind}">{text(cell)}</td>' for cell, kind in zip(cells, kinds, strict=True))


def _kind(values: Iterable[Any]) -> str:
    """The class of a column's cells."""
    present = [value for value in values if value is not None]
    are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in present)
    return "number" if present and are_numbers else "text"
