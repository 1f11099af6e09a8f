"""The one rule that finds the final answer in a text; every verifier reads what it returns and nothing else.

Only what follows the last `</think>` counts, if there is one, and nothing after a `<think>` that is never closed: an
answer before the reasoning ends is none. In it, the first of these that is there:

1. the last complete `<answer>...</answer>`;
2. the last balanced `\\boxed{...}` (the one that opens last);
3. what follows the last run of `#` on the last line that has one: `#### 72`, `36-4=32#32`;
4. only where a verifier asks for phrases: the rest of the sentence after the last "answer is" or "answer:", up to a
   "because", "since" or "as"; it comes before 3 if it stands after the last `#`, or if that is a Markdown heading's.

A box that is said not to be the answer (`not \\boxed{42}`) gives none, nor do different boxes joined by "or". A
final answer has at most MAX_CHARS characters. Every step is linear in the length of the text, whatever it holds.
"""

from __future__ import annotations

import re

from obverse.records import Verdict

MAX_CHARS = 5_000
UNANSWERED = Verdict.wrong("no final answer", formatted=False)

_BOX_PARTS = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)  # "\\." skips escaped braces and every other command
_BOX_OPENING = re.compile(r"\\boxed\s*\{")
_JOINT = re.compile(r"[\s$]*(?:[,;]?\s*\b(?:or|and)\b|[,;])[\s$]*", re.IGNORECASE)
_MAX_JOINT_CHARS = 20
_PHRASE = re.compile(r"\banswer\s{0,8}(?:is\b|:)[\s:*]{0,8}", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\.(?:\s|$)|\n|,?\s(?:because|since|as)\s")
_LEAD = re.compile(
    r"(?:(?:therefore|thus|then|simply|just|indeed|clearly|equal to|given by)\b[\s:,]{0,3})+", re.IGNORECASE
)
_DENIAL = re.compile(r"(?:\bnot|n't|\bnever|\\ne|\\neq|!=)(?:\s+(?:be|equal(?: to)?))?[\s:$*]*$", re.IGNORECASE)
_HEADING = re.compile(r"\s{0,3}#{1,3}\s")
_MAX_DENIAL_CHARS = 30


def final_answer(text: str, *, phrases: bool = False) -> str | None:
    """Return the final answer of a text, stripped, or None if it gives none; "" means that its place was left empty.

    Different boxes joined only by "or", "and", a comma or a semicolon are a hedge, not an answer.

    Example:
        final_answer("<think>12?</think> 36-4=32#32") == "32"
        final_answer("The answer is 72 clips.", phrases=True) == "72 clips"
    """
    text = outcome(text)
    found = _tagged(text)
    if found is None and (boxes := _boxes(text)):
        if _hedged(text, boxes) or _denied(text, boxes[-1][0]):
            return None
        found = text[slice(*boxes[-1])]
    if found is None:
        phrase = _last_phrase(text) if phrases else -1
        comes_last = phrase > text.rfind("#") or (phrase >= 0 and _ends_in_heading(text))
        found = _after_phrase(text, phrase) if comes_last else _after_hash(text)
    return None if found is None or len(found) > MAX_CHARS else found.strip()


def outcome(text: str) -> str:
    """Return what follows the last `</think>`, or the whole text without one, up to a `<think>` that stays open."""
    return text.rpartition("</think>")[2].partition("<think>")[0]


def last_box(text: str) -> str | None:
    """Return the contents of the last balanced `\\boxed{...}` of a text, None if it has none."""
    boxes = _boxes(text)
    return text[slice(*boxes[-1])] if boxes else None


def unboxed(text: str) -> str:
    """Return the contents of the box, or boxes in boxes, that make up a whole text; any other text as it is."""
    first, last = 0, len(text)
    for start, end in _boxes(text):
        if end == last - 1 and _BOX_OPENING.fullmatch(text, first, start):
            first, last = start, end
    return text[first:last]


def _tagged(text: str) -> str | None:
    close = text.rfind("</answer>")
    opening = text.rfind("<answer>", 0, max(close, 0))
    if opening < 0:
        return None
    start = opening + len("<answer>")
    return text[start : text.index("</answer>", start)]


def _boxes(text: str) -> list[tuple[int, int]]:
    """The contents of every balanced box as (start, end), in the order in which they open: one scan, one stack."""
    first = text.find("\\boxed")
    boxes: list[tuple[int, int]] = []
    unclosed: list[tuple[int, bool]] = []
    for part in _BOX_PARTS.finditer(text, first) if first >= 0 else ():
        found = part.group()
        if found == "{" or found.startswith("\\boxed"):
            unclosed.append((part.end(), found != "{"))
        elif found == "}" and unclosed:
            start, is_box = unclosed.pop()
            if is_box:
                boxes.append((start, part.start()))
    return sorted(boxes)


def _hedged(text: str, boxes: list[tuple[int, int]]) -> bool:
    """Whether the last box ends a row of joined boxes that do not all say the same."""
    last = text[slice(*boxes[-1])].strip()
    for index in range(len(boxes) - 1, 0, -1):
        (start, end), next_start = boxes[index - 1], boxes[index][0]
        between = text[end + 1 : text.rfind("\\boxed", 0, next_start)]
        if len(between) > _MAX_JOINT_CHARS or not _JOINT.fullmatch(between):
            return False
        if text[start:end].strip() != last:
            return True
    return False


def _denied(text: str, start: int) -> bool:
    opening = text.rfind("\\boxed", 0, start)
    return bool(_DENIAL.search(text[max(0, opening - _MAX_DENIAL_CHARS) : opening]))


def _ends_in_heading(text: str) -> bool:
    """Whether the last line with a `#` is a Markdown heading."""
    last = text.rfind("#")
    return last >= 0 and bool(_HEADING.match(text, text.rfind("\n", 0, last) + 1))


def _after_hash(text: str) -> str | None:
    last = text.rfind("#")
    return None if last < 0 else text[last + 1 :].partition("\n")[0]


def _last_phrase(text: str) -> int:
    """Where what the last "answer is" announces begins; -1 if there is none."""
    return max((phrase.end() for phrase in _PHRASE.finditer(text)), default=-1)


def _after_phrase(text: str, start: int) -> str:
    start = lead.end() if (lead := _LEAD.match(text, start)) else start
    sentence_end = _SENTENCE_END.search(text, start)
    return text[start : sentence_end.start() if sentence_end else len(text)].strip("* ")
