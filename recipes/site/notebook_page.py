"""A notebook as a Markdown page: its text, its code and the outputs that are stored in the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TERMINAL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def notebook_page(path: Path) -> str:
    """The Markdown of a notebook file; pictures are part of the page, HTML outputs stay HTML."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(block for cell in cells for block in blocks(cell)) + "\n"


def blocks(cell: Mapping[str, Any]) -> Iterator[str]:
    """The blocks of a cell: its text or code, then its outputs."""
    source = joined(cell["source"]).strip()
    if cell["cell_type"] == "markdown":
        yield source
    elif source:
        yield fenced(source, "python")
        for output in cell.get("outputs", ()):
            yield shown(output)


def shown(output: Mapping[str, Any]) -> str:
    """An output in the richest form that a page can show."""
    data = output.get("data", {})
    if "text/html" in data:
        return f'<div class="output">{one_line(joined(data["text/html"]))}</div>'
    if "image/svg+xml" in data:
        return f'<div class="output">{one_line(joined(data["image/svg+xml"]))}</div>'
    if "image/png" in data:
        picture = joined(data["image/png"]).replace("\n", "")
        return f'<div class="output"><img alt="output of the cell above" src="data:image/png;base64,{picture}"></div>'
    text = joined(output.get("text") or data.get("text/plain") or output.get("traceback") or "")
    return fenced(TERMINAL.sub("", text).rstrip(), "text")


def fenced(text: str, language: str) -> str:
    fence = "`" * max(3, *(len(ticks) + 1 for ticks in re.findall(r"`+", text)), 3)
    return f"{fence}{language}\n{text}\n{fence}"


def joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def one_line(html: str) -> str:
    """HTML without line breaks, which could end its block in Markdown."""
    return re.sub(r"\n\s*", " ", html)
