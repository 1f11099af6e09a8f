"""The sections of a method's docstring: its labeled entries, and the help texts of its parameters under `Options`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

TITLE = "Options"


def split_options(docstring: str) -> tuple[str, dict[str, str]]:
    """The docstring without its `Options` section, and the section's help texts by parameter name.

    The section is the line `Options` with an indented line `name: text` per parameter; lines that are indented further
    continue the text. `docstring` is as `inspect.getdoc` returns it. Without a section the texts are empty.

    Example:
        split_options("GRPO.\\n\\nOptions\\n    beta: weight of the KL") == ("GRPO.", {"beta": "weight of the KL"})
    """
    lines = docstring.splitlines()
    if TITLE not in lines:
        return docstring, {}
    start = lines.index(TITLE)
    end = next(
        (i for i in range(start + 1, len(lines)) if lines[i].strip() and not lines[i].startswith(" ")), len(lines)
    )
    section = [line for line in lines[start + 1 : end] if line.strip()]
    indent = len(section[0]) - len(section[0].lstrip()) if section else 0
    texts: dict[str, str] = {}
    name = ""
    for line in section:
        head, colon, text = line.strip().partition(":")
        if len(line) - len(line.lstrip()) <= indent and colon:
            name = head.strip()
            texts[name] = text.strip()
        elif name:
            texts[name] = f"{texts[name]} {line.strip()}".strip()
    return "\n".join([*lines[:start], *lines[end:]]).rstrip(), {name: text for name, text in texts.items() if text}


def labeled(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(label, text) of every entry of a docstring, line by line; an indented line continues the one before."""
    label, words = "", ""
    for line in lines:
        if line.startswith(" "):
            words = f"{words}\n{line.strip()}"
            continue
        if words:
            yield label, words
        match = re.match(r"(.{1,24}?)\s{2,}(.+)", line) or re.match(r"(Estimator) (.+)", line)
        label, words = (match[1], match[2]) if match else ("", line)
    if words:
        yield label, words
