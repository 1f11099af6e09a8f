"""An extension of mkdocstrings: the code of a docstring's example is shown as code."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"^(Examples?\b[^\n]*:)\n((?:[ \t]+\S.*(?:\n|\Z)|\s*\n)+)", re.MULTILINE)


class ExamplesAsCode(Extension):
    """Puts the indented lines below `Example:` into a fenced block."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(fenced, obj.docstring.value)


def fenced(example: re.Match[str]) -> str:
    """The example with a fence around its lines; one that has a fence or prompts stays as it is."""
    if "```" in example[2] or ">>>" in example[2]:
        return example[0]
    body = example[2].rstrip("\n")
    return f"{example[1]}\n    ```python\n{body}\n    ```\n\n"
