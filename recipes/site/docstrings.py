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
    """The example with a fence around its lines; one with a fence stays as it is, and `Examples:` with prompts."""
    has_prompts = ">>>" in example[2]
    if "```" in example[2] or (has_prompts and example[1].startswith("Examples")):
        return example[0]
    language, body = "pycon" if has_prompts else "python", example[2].rstrip("\n")
    return f"{example[1]}\n    ```{language}\n{body}\n    ```\n\n"
