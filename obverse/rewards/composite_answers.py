"""Parsing of composite answers: lists, tuples, sets, intervals, vectors, matrices and assignments."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

MAX_MEMBERS = 64

NAME = (
    r"(?:\\?[A-Za-z]+'?|[A-Za-z](?:\^\{-1\})?'{0,2}\([A-Za-z](?:,[A-Za-z])?\)|\\?[A-Za-z]+_\{?[A-Za-z0-9]+\}?"
    r"|\\(?:angle|triangle|overline)\s*\{?[A-Z]+\}?|\\text\s*\{[^{}0-9]*\}(?:_\{?[A-Za-z0-9]+\}?)?"
    r"|[a-z]+(?:\s[a-z]+){1,3})"
)
_NAMED = re.compile(rf"\s*({NAME})\s*")
_JOINT = re.compile(
    r"\\(?:text|mbox|textrm|mathrm)\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|\\(?:lor|vee"
    r"|land|wedge)(?![A-Za-z])"
)
_OR = re.compile(r"\\(?:text|mbox)\s*\{\s*,?\s*or\s*\}|(?<![A-Za-z\\])or(?![A-Za-z])|\\(?:lor|vee|cup)(?![A-Za-z])")
_PLUS_MINUS = re.compile(r"\\(pm|mp)(?![A-Za-z])")
_BRACKETS = re.compile(r"\\?[{}]|[()\[\],;]|\\[lr]angle(?![A-Za-z])")
_OPENING, _CLOSING = ("(", "[", "{", "\\{", "\\langle"), (")", "]", "}", "\\}", "\\rangle")
_TABLE = re.compile(
    r"(?:\(|\[)?\s*\\begin\s*\{(?P<kind>[pbB]?matrix|smallmatrix|array|cases)\}\s*(?:\{[lcr"
    r"| ]*\})?(?P<body>(?:(?!\\begin|\\end).)*)"
    r"\\end\s*\{(?P=kind)\}\s*(?:\)|\])?",
    re.DOTALL,
)
_CONDITION = re.compile(
    r"\\(?:text|mbox|textrm)\s*\{\s*,?\s*(?:if|for|when|where|otherwise)?\s*\}|,\s*$|^\s*(?:if|for|when)\b"
)
_UNIT_VECTORS = re.compile(r"\\(?:hat|mathbf|vec|boldsymbol)\s*\{?\s*\\?([ijk])(?:math)?\s*\}?")
_COMPONENT = re.compile(r"\s*([+-]?)\s*([^+\-ijk]*?)\s*([ijk])(?![a-z])\s*")
_ASSIGNED = re.compile(rf"\s*({NAME})\s*=\s*([^=]+)")


class Collection(NamedTuple):
    """A collection of members; `kind` is "list" (no brackets), "set", "vector", "matrix", "cases", or its brackets."""

    kind: str
    members: tuple[str, ...]
    width: int = 1  # of a matrix or of cases, in members


@lru_cache(maxsize=4096)
def collection(text: str) -> Collection | None:
    """Return the members of a bare text, None if it is a single thing. `\\pm` makes two members of one."""
    if not text or not any(sign in text for sign in ",;(){}[]&ao\\"):
        return None
    if table := _TABLE.fullmatch(text):
        return _table(table["kind"], table["body"])
    pieces = split(text)
    opening, closing = _ends(text) if len(pieces) == 1 else ("", "")
    kind = {"\\{\\}": "set", "\\langle\\rangle": "vector"}.get(opening + closing, opening + closing)
    if not opening or (kind != "set" and _PLUS_MINUS.search(text)):
        pieces = _expanded(pieces)
        return Collection("list", tuple(pieces[:MAX_MEMBERS])) if len(pieces) > 1 else None
    inner = split(text[len(opening) : -len(closing)])
    members = tuple((_expanded(inner) if kind == "set" else inner)[:MAX_MEMBERS])
    return Collection(kind, members) if members and (kind in ("set", "[]") or len(members) > 1) else None


def split(text: str) -> list[str]:
    """Return the parts of a text between commas, semicolons, "and" and "or" outside of brackets."""
    text = _JOINT.sub(";", text) if any(word in text for word in ("and", "or", "vee", "wedge")) else text
    parts, depth, start = [], 0, 0
    for sign in _BRACKETS.finditer(text):
        piece = sign.group()
        if piece in _OPENING:
            depth += 1
        elif piece in _CLOSING:
            depth -= 1
        elif depth == 0:
            parts.append(text[start : sign.start()])
            start = sign.end()
    parts.append(text[start:])
    stripped = [part.strip() for part in parts]
    return [part for part in stripped if part] if any(stripped) else []


def alternatives(text: str) -> list[str]:
    """Return the parts of a text between "or" and `\\cup`."""
    return [part.strip() for part in _OR.split(text)]


def assignments(text: str) -> list[tuple[str, str]] | None:
    """Return the names and values of `x=1, y=2`, `x=2,3` or `(x,y)=(1,2)`, in order; None for any other text."""
    if "=" not in text:
        return None
    left, _, right = text.partition("=")
    if "=" not in right and left.strip().startswith("("):
        names, values = collection(left.strip()), collection(right.strip())
        if names and values and names.kind == values.kind == "()" and len(names.members) == len(values.members):
            return list(zip(names.members, values.members, strict=True))
    pairs: list[tuple[str, str]] = []
    for part in split(text):
        if match := _ASSIGNED.fullmatch(part):
            pairs.append((_spelled(match[1]), match[2].strip()))
        elif pairs and "=" not in part:
            pairs.append((pairs[-1][0], part))
        else:
            return None
    return pairs or None


def is_name(text: str) -> bool:
    """Return whether a text is a name that can be the left side of an assignment."""
    return bool(_NAMED.fullmatch(text))


def components(text: str) -> tuple[str, ...] | None:
    """Return a, b, c of `a i + b j + c k` in unit vectors; None for any other text."""
    text = _UNIT_VECTORS.sub(r"\1", text)
    coefficients, position = {}, 0
    while position < len(text):
        part = _COMPONENT.match(text, position)
        if part is None or part[3] in coefficients:
            return None
        coefficients[part[3]] = part[1].strip("+") + (part[2] or "1")
        position = part.end()
    names = "ijk" if "k" in coefficients else "ij"
    return tuple(coefficients.get(name, "0") for name in names) if len(coefficients) > 1 else None


def _table(kind: str, body: str) -> Collection | None:
    rows = [[cell.strip() for cell in row.split("&")] for row in re.split(r"\\\\(?:\[[^\]]*\])?", body) if row.strip()]
    width = len(rows[0]) if rows else 0
    if not rows or any(len(row) != width for row in rows):
        return None
    if kind == "cases":
        rows = [[_CONDITION.sub("", cell).strip() for cell in row] for row in rows]
    members = tuple(cell for row in rows for cell in row)
    return Collection("cases" if kind == "cases" else "matrix", members, width) if len(members) <= MAX_MEMBERS else None


def _expanded(parts: list[str]) -> list[str]:
    """Replace every part that has a `\\pm` by two."""
    expanded: list[str] = []
    for part in parts:
        signs = _PLUS_MINUS.findall(part)
        if not signs or ("=" in part and not _ASSIGNED.fullmatch(part)) or re.search(r"[<>]|\\[lg]e(?![a-z])", part):
            expanded.append(part)
            continue
        upper = _PLUS_MINUS.sub(lambda sign: "+" if sign[1] == "pm" else "-", part)
        lower = _PLUS_MINUS.sub(lambda sign: "-" if sign[1] == "pm" else "+", part)
        expanded += [upper.removeprefix("+"), lower.removeprefix("+")]
    return expanded


def _ends(text: str) -> tuple[str, str]:
    """Return the brackets that enclose the whole text, empty without such brackets."""
    opening = next((bracket for bracket in ("\\langle", "\\{", "(", "[") if text.startswith(bracket)), "")
    closing = next((bracket for bracket in ("\\rangle", "\\}", ")", "]") if text.endswith(bracket)), "")
    if not opening or not closing:
        return "", ""
    depth = 0
    for sign in _BRACKETS.finditer(text):
        depth += (sign.group() in _OPENING) - (sign.group() in _CLOSING)
        if depth == 0:
            fits = (
                sign.end() == len(text)
                and (opening in "([") == (closing in ")]")
                and (opening[-1] in "([" or opening[1:2] == ("{" if closing == "\\}" else "l"))
            )
            return (opening, closing) if fits else ("", "")
    return "", ""


def _spelled(name: str) -> str:
    return re.sub(r"\\text\s*\{([^{}]*)\}|[{}\s]", r"\1", name).lower() if len(name) > 3 else name.strip()
