"""The one rule that finds the final answer in a text; every verifier reads what it returns and nothing else.

Only what follows the last `</think>` counts, if there is one. In it, the first of these that is there:

1. the last complete `<answer>...</answer>`;
2. the last balanced `\\boxed{...}` (the one that opens last) of at most MAX_CHARS characters;
3. what follows the last run of `#` on the last line that has one: `#### 72`, `36-4=32#32`;
4. only where a verifier asks for phrases: the rest of the sentence after the last "answer is" or "answer:".

Every step is linear in the length of the text, whatever a model wrote.
"""

from __future__ import annotations

import re

MAX_CHARS = 5_000  # a longer final answer is none
NO_ANSWER = "no final answer"

_BOX_PARTS = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)  # "\\." skips escaped braces and every other command
_HEDGE = re.compile(r"[\s$,;.]*(?:or|and)?[\s$,;]*", re.IGNORECASE)
_MAX_HEDGE_CHARS = 20
_PHRASE = re.compile(r"\banswer\s{0,8}(?:is|:)[\s:*]{0,8}", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\.(?:\s|$)|\n")


def final_answer(text: str, *, phrases: bool = False) -> str | None:
    """Return the final answer of a text, stripped, or None if it gives none; "" means that its place was left empty.

    Two different boxes with nothing but "or", "and" or a comma between them are a hedge, not an answer.

    Example:
        final_answer("<think>12?</think> 36-4=32#32") == "32"
        final_answer("The answer is 72 clips.", phrases=True) == "72 clips"
    """
    text = outcome(text)
    found = _tagged(text)
    if found is None and "\\boxed" in text:
        boxes = _boxes(text)
        if boxes:
            found = None if _is_hedged(text, boxes) else text[slice(*boxes[-1])]
            return None if found is None else found.strip()
    if found is None:
        found = _after_hash(text)
    if found is None and phrases:
        found = _after_phrase(text)
    return None if found is None or len(found) > MAX_CHARS else found.strip()


def outcome(text: str) -> str:
    """Return what follows the last `</think>`: the whole text if there is none."""
    return text.rpartition("</think>")[2]


def last_box(text: str) -> str | None:
    """Return the contents of the last balanced `\\boxed{...}` of a text, None if it has none."""
    boxes = _boxes(text) if "\\boxed" in text else []
    return text[slice(*boxes[-1])] if boxes else None


def _tagged(text: str) -> str | None:
    close = text.rfind("</answer>")
    opening = text.rfind("<answer>", 0, max(close, 0))
    if opening < 0:
        return None
    start = opening + len("<answer>")
    return text[start : text.index("</answer>", start)]


def _boxes(text: str) -> list[tuple[int, int]]:
    """The contents of every balanced box as (start, end), in the order in which they open: one scan, one stack."""
    boxes: list[tuple[int, int]] = []
    unclosed: list[tuple[int, bool]] = []
    for part in _BOX_PARTS.finditer(text, text.find("\\boxed")):
        brace = part.group()[-1]
        if brace == "{" and (part.group() == "{" or len(part.group()) > 2):
            unclosed.append((part.end(), len(part.group()) > 1))
        elif part.group() == "}" and unclosed:
            start, is_box = unclosed.pop()
            if is_box and part.start() - start <= MAX_CHARS:
                boxes.append((start, part.start()))
    return sorted(boxes)


def _is_hedged(text: str, boxes: list[tuple[int, int]]) -> bool:
    """Whether the box before the last one says something else and only "or", "and" or punctuation stands between."""
    if len(boxes) < 2:
        return False
    (first_start, first_end), (last_start, last_end) = boxes[-2:]
    between = text[first_end + 1 : text.rfind("\\boxed", 0, last_start)]
    if last_start < first_end or len(between) > _MAX_HEDGE_CHARS or not _HEDGE.fullmatch(between):
        return False
    return text[first_start:first_end].strip() != text[last_start:last_end].strip()


def _after_hash(text: str) -> str | None:
    last = text.rfind("#")
    return None if last < 0 else text[last + 1 :].partition("\n")[0]


def _after_phrase(text: str) -> str | None:
    last = None
    for last in _PHRASE.finditer(text):
        pass
    if last is None:
        return None
    sentence = _SENTENCE_END.search(text, last.end())
    return text[last.end() : sentence.start() if sentence else len(text)].strip("* ")
