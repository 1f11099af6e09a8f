"""The `Options` section of a method's docstring: the help text of each of its parameters."""

from __future__ import annotations

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
