"""Boxes `\\boxed{...}` and `\\fbox{...}`: which of them is the final answer, and whether the text around denies it.

A box in a box is part of the outer one's formula. Different boxes with only signs, numbering or words such as "or",
"maybe" and "versus" between them are a hedge. A box inside a formula (`-\\boxed{42}`, `\\cancel{\\boxed{42}}`), or one
that is denied by the words before it, is not an answer. Every step takes time linear in the length of the text.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from obverse.rewards.answer_context import (
    MAX_CHARS,
    has_alternative,
    is_changed,
    is_compared,
    is_denied,
    is_plain,
    is_struck,
    sentence_before,
    without_marks,
)
from obverse.rewards.lexicon import JOINT_WORDS

_NAME = r"\\+(?:boxed|fbox|framebox)(?![A-Za-z])"
_PARTS = re.compile(rf"{_NAME}\s*(?:\[[^\[\]{{}}]{{0,20}}\]\s*)?\{{|\\.|[{{}}]", re.DOTALL)
_OPENING = re.compile(rf"{_NAME}\s*(?:\[[^\[\]{{}}]{{0,20}}\]\s*)?\{{")
_BARE = re.compile(rf"{_NAME}\s{{1,4}}([-+]?[0-9][0-9.,]*|[A-Za-z])(?![A-Za-z0-9{{])")
_INNER = re.compile(rf"{_NAME}\s*(?:\[[^\[\]{{}}]{{0,20}}\]\s*)?(?=\{{)")
_WORDS = re.compile(r"[A-Za-z']+")
_MAX_JOINT_CHARS = 60
_OFFERED = re.compile(
    r"[\s$,.;)]*(?:\\text\s*\{\s*)?(?:or|otherwise|else|alternatively)\b(?!.*\b(?:so|hence|thus|therefore)\b)"
)
_DENIAL = re.compile(
    r"(?:(?:\bnot|n't|\bnever|\bcannot|\bneither|\bnor|\bexcept|\banything but|\bother than|\binstead of|\brather than"
    r"|\bunlike|\bexcluding|\bwithout|\\not|\\ne|\\neq|!=|\\lnot|\\neg)"
    r"(?:\s+(?:be|equal(?: to)?|is|the|an?|answer|value|result|solution|really|actually|simply|just|exactly|true"
    r"|that|it"
    r"|to|correct|right|final))*"
    r"|\b(?:wrong|incorrect|false|mistaken|bad|erroneous)\s+(?:final\s+)?(?:answer|answers|result|value|solution|guess"
    r"|choice|option|one)(?:\s+(?:is|was|would be|of|such as|like|here))*)[\s:;,$*({\[`\"']*$",
    re.IGNORECASE,
)
_IN_FORMULA = re.compile(
    r"(?:[0-9]|\\[dt]?frac\s*\{[^{}]{0,30}\}\s*\{|(?<=[$\s=(+*/^0-9}])[-+*/^]|(?<![\s\n])[-+*/^]|\\(?:[x b]?cancel"
    r"|sout|st|phantom|[hv]phantom|frac|dfrac|tfrac|sqrt|cdot|times|div|ast|circ|bmod|pmod|mod|log_[0-9a-z]"
    r"|not|neg|lnot|overline|bar|sin|cos|tan|ln|log|pm|mp|text|overset|underset)(?:\{[^{}]{0,30})?\{?)\s*\$?[\s{]*$"
)
_AFTER = re.compile(
    r"[ \t$)}\]]{0,6}(?:\\text\s*\{\s*|\\[,;: ]\s*)?"
    r"(?:\^(?!\s*\{?\s*\\circ)|\\?%?\s?\?|[-+*] ?[0-9\\]|:\s?[0-9]|\\(?:cdot|times|div|pm|sqrt|frac|pi)(?![A-Za-z])"
    r"|/\s*\\?[0-9(fb]|(?:hundred|thousand|million|billion|trillion|dozen|squared|cubed|lakh|crore|halves|thirds"
    r"|quarters|fourths|fifths|tenths)\b)"
    r"|(?-i:[A-Za-z](?<![AmgshlLNJWVC])(?![A-Za-z]))|!\s*\$",
    re.IGNORECASE,
)
SUFFIX = re.compile(
    r"[ \t$)]{0,3}(?:(?P<percent>\\?%|per\s?cent\b)|(?P<degree>\^\s*(?:\\circ(?![a-z])|\{\s*\\circ\s*\})|\u00b0))"
)


class Box(NamedTuple):
    """The start of a box in a text, and the start and the end of its content."""

    opening: int
    start: int
    end: int


def boxes(text: str) -> list[Box]:
    """Return all balanced boxes in the order in which they open."""
    first = text.find("\\boxed")
    if (fbox_start := text.find("\\f", 0, None if first < 0 else first)) >= 0 and (
        "\\fbox" in text or "\\framebox" in text
    ):
        first = fbox_start
    if first < 0:
        return []
    while first > 0 and text[first - 1] == "\\":
        first -= 1
    closed: list[Box] = []
    unclosed: list[tuple[int, int, bool]] = []
    for part in _PARTS.finditer(text, first):
        piece = part.group()
        if piece[0] == "{" or (piece[0] == "\\" and len(piece) > 2):
            unclosed.append((part.start(), part.end(), piece != "{"))
        elif piece == "}" and unclosed:
            opening, start, is_box = unclosed.pop()
            if is_box:
                closed.append(Box(opening, start, part.start()))
    if not closed:
        closed = [Box(part.start(), part.start(1), part.end(1) - 0) for part in _BARE.finditer(text, first)]
    return sorted(closed)


def outermost(text: str) -> list[Box]:
    """Return the boxes that are not inside another box."""
    outer: list[Box] = []
    for box in boxes(text):
        if not outer or box.opening > outer[-1].end:
            outer.append(box)
    return outer


def last_box(text: str) -> str | None:
    """Return the content of the last balanced box outside of other boxes, None without a box."""
    outer = outermost(text)
    return unboxed(text[outer[-1].start : outer[-1].end]) if outer else None


def unboxed(text: str) -> str:
    """Return the content of the box, or nested boxes, that enclose the whole text; any other text unchanged."""
    first, last = 0, len(text)
    for box in boxes(text):
        if box.end == last - 1 and box.opening == first and _OPENING.fullmatch(text, first, box.start):
            first, last = box.start, box.end
    return text[first:last]


def without_boxes(text: str) -> str:
    """Return a formula with boxes replaced by plain braces."""
    return _INNER.sub("", text) if "box" in text else text


def answering_box(text: str) -> tuple[Box | None, bool]:
    """Return the box of the final answer, if any, and whether the text has boxes at all."""
    outer = outermost(text)
    if not outer:
        return None, False
    box = outer[-1]
    if _is_hedge(text, outer) or _is_denied_box(text, box):
        return None, True
    return box, True


def _is_hedge(text: str, outer: list[Box]) -> bool:
    """Return whether the last box belongs to a series of boxes with different contents."""
    last = text[outer[-1].start : outer[-1].end].strip()
    for before, box in zip(outer[-2::-1], outer[:0:-1], strict=True):
        between = text[before.end + 1 : box.opening]
        if len(between) > _MAX_JOINT_CHARS or not (
            _OFFERED.match(between) or JOINT_WORDS.issuperset(_WORDS.findall(between.lower()))
        ):
            return False
        if text[before.start : before.end].strip() != last:
            return True
    return False


def _is_denied_box(text: str, box: Box) -> bool:
    """Return whether the line and the sentence of a box deny it, or make it part of a formula."""
    sentence, content = sentence_before(text, box.opening), text[box.start : box.end]
    end = box.end + 1 if text[box.end : box.end + 1] == "}" else box.end
    after = text[end : end + MAX_CHARS]
    if is_plain(sentence):
        return bool(_AFTER.match(after)) or is_changed(after, content)
    line = without_marks(sentence)
    if line.endswith("*") and text.startswith("*", end):
        line = line[:-1]
    if _DENIAL.search(line) or is_denied(sentence) or is_struck(sentence) or is_compared(line):
        return True
    if _IN_FORMULA.search(line) or has_alternative(line, content):
        return True
    if line.endswith("|") and re.match(r"\|\s*[-+*/^]", after):
        return True
    return bool(_AFTER.match(after)) or is_changed(after, content)
