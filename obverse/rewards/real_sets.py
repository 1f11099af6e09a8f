"""Sets of real numbers: intervals, their unions, and inequalities that describe them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from obverse.rewards.composite_answers import alternatives, collection

_RELATION = re.compile(r"\s*(<|>|\\le(?![a-z])|\\ge(?![a-z])|\\ne(?![a-z]))\s*")
_VARIABLE = re.compile(r"\\?[A-Za-z]+(?:_\{?[A-Za-z0-9]+\}?)?|[A-Za-z]\([A-Za-z]\)")
_MEMBER = re.compile(r"(?P<name>\\?[A-Za-z]+)\s*\\in(?![A-Za-z])\s*(?P<set>.+)", re.DOTALL)
_BUILDER = re.compile(
    r"\\\{\s*(?P<name>[A-Za-z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?::|\||\\mid|\\vert)\s*(?P<condition>.+?)\s*\\\}",
    re.DOTALL,
)
_REALS = re.compile(
    r"\\mathbb\s*\{?\s*R\s*\}?|\\(?:text|mathrm)\s*\{\s*(?:all real numbers|all reals|all real [a-z]"
    r"|every real number)\s*\}|all real numbers|all reals",
    re.IGNORECASE,
)
_LAST_CONDITION = re.compile(r",?\s*(?:[A-Za-z]\s*)?\\in\s*\\mathbb\{R\}\s*$")
MINUS_INFINITY, INFINITY = "-\\infty", "\\infty"


class Interval(NamedTuple):
    """An interval: its ends as formulas, and whether they belong to it."""

    low: str
    high: str
    has_low: bool
    has_high: bool


class Region(NamedTuple):
    """A union of intervals in the order in which they are written, with the variable's name or ""."""

    name: str
    intervals: tuple[Interval, ...]


@lru_cache(maxsize=4096)
def region(text: str) -> Region | None:
    """Return the set of reals that a bare text describes, None for any other text or a too complicated one."""
    if not re.search(r"[<>()\[\]R]|\\[lg]e|\\ne|real", text) or len(text) > 300:
        return None
    if builder := _BUILDER.fullmatch(text):
        inner = region(builder["condition"])
        return inner and inner._replace(name=builder["name"])
    if member := _MEMBER.fullmatch(text):
        inner = region(member["set"])
        return inner and inner._replace(name=member["name"])
    parts = [_part(part) for part in alternatives(text)]
    names = {part.name for part in parts if part is not None} - {""}
    if None in parts or len(names) > 1:
        return None
    return Region(
        names.pop() if names else "", tuple(interval for part in parts if part for interval in part.intervals)
    )


def is_relation(text: str) -> bool:
    """Return whether a text describes a set by an inequality, a name or words rather than by brackets only."""
    return bool(_RELATION.search(text) or _REALS.search(text) or "\\in" in text or "\\cup" in text)


def _part(text: str) -> Region | None:
    if _REALS.fullmatch(text):
        return Region("", (Interval(MINUS_INFINITY, INFINITY, False, False),))
    if _RELATION.search(text):
        return _inequality(_LAST_CONDITION.sub("", text))
    if member := _MEMBER.fullmatch(text):
        inner = _part(member["set"])
        return inner and inner._replace(name=member["name"])
    parts = collection(text)
    if parts is None:
        return None
    if parts.kind == "set":
        return Region("", tuple(Interval(member, member, True, True) for member in parts.members))
    if len(parts.members) != 2 or parts.kind not in ("()", "[]", "(]", "[)"):
        return None
    low, high = (member.replace("+\\infty", "\\infty") for member in parts.members)
    return Region("", (Interval(low, high, parts.kind[0] == "[", parts.kind[1] == "]"),))


def _inequality(text: str) -> Region | None:
    sides = _RELATION.split(text)
    if len(sides) == 5 and sides[1] in ("<", "\\le") and sides[3] in ("<", "\\le"):
        low, name, high, closed = sides[0], sides[2], sides[4], (sides[1] == "\\le", sides[3] == "\\le")
    elif len(sides) == 5 and sides[1] in (">", "\\ge") and sides[3] in (">", "\\ge"):
        low, name, high, closed = sides[4], sides[2], sides[0], (sides[3] == "\\ge", sides[1] == "\\ge")
    elif len(sides) == 3:
        return _one_sided(*sides)
    else:
        return None
    return Region(name, (Interval(low.strip(), high.strip(), *closed),)) if _VARIABLE.fullmatch(name) else None


def _one_sided(left: str, sign: str, right: str) -> Region | None:
    left, right = left.strip(), right.strip()
    if not left or not right:
        return None
    if not (_VARIABLE.fullmatch(left) or left.startswith("|")):
        left, right = right, left
        sign = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "\\ne": "\\ne"}[sign]
    closed = sign in ("\\le", "\\ge")
    if (size := re.fullmatch(r"\|\s*([A-Za-z])\s*\|", left)) and "|" not in right:
        name, low = size[1], right[1:] if right.startswith("-") else f"-{right}" if right.isalnum() else f"-({right})"
        if sign in ("<", "\\le"):
            return Region(name, (Interval(low, right, closed, closed),))
        if sign == "\\ne":
            return None
        return Region(name, (Interval(MINUS_INFINITY, low, False, closed), Interval(right, INFINITY, closed, False)))
    if not _VARIABLE.fullmatch(left) or (_VARIABLE.fullmatch(right) and right.isalpha()):
        return None
    below, above = Interval(MINUS_INFINITY, right, False, closed), Interval(right, INFINITY, closed, False)
    if sign == "\\ne":
        return Region(left, (below, above))
    return Region(left, (below if sign in ("<", "\\le") else above,))
