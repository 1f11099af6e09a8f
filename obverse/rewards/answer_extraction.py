"""Extraction of the final answer from a completion, shared by all verifiers.

Only text after the last block of reasoning counts (`obverse.rewards.reasoning_blocks`), and no text after an unclosed
block. The final answer is the first of these that exists:

1. the last complete `<answer>...</answer>` (or `<final_answer>`);
2. the last balanced `\\boxed{...}` or `\\fbox{...}` outside of other boxes, unless, with `phrases`, a later phrase
   gives another answer;
3. the text after the last run of `#` on the last line with a `#`: `#### 72`, `36-4=32#32`;
4. only with `phrases`: the rest of the sentence after the last "answer is" or "answer:", up to a "because", "since",
   "which" or "as"; it takes precedence over 3 if it follows the last `#`, or if that `#` belongs to a Markdown heading.

A box that is denied, hedged or part of a formula gives no answer (`obverse.rewards.boxes`), nor does an answer that the
next sentences retract (`obverse.rewards.answer_phrases`). A final answer has at most MAX_CHARS characters. Every step
takes time linear in the length of the text.
"""

from __future__ import annotations

import re

from obverse.rewards.answer_context import TAGS
from obverse.rewards.answer_phrases import answer_phrase, is_taken_back, last_phrase, later_answer
from obverse.rewards.boxes import SUFFIX, answering_box, last_box, unboxed
from obverse.rewards.reasoning_blocks import outcome
from obverse.types import GradeResult

__all__ = ["MAX_CHARS", "UNANSWERED", "final_answer", "last_box", "outcome", "unboxed"]

MAX_CHARS = 5_000
UNANSWERED = GradeResult.failed("no final answer", formatted=False)

_TAG = re.compile(r"<(/?)(?:final[_ -]?)?answer\s{0,3}>", re.IGNORECASE)
_HEADING = re.compile(r"\s{0,3}#{1,6}\s")
_HEADED = re.compile(r"#{1,6}\s{0,3}(?:[*_]{0,3}[A-Za-z]|[*_]{0,3}$)")
_ENDINGS = re.compile(r"[\s#]*$")


def final_answer(text: str, *, phrases: bool = False) -> str | None:
    """Return the final answer of a completion, stripped; "" if an answer's tag or box is empty, None without an answer.

    Example:
        final_answer("<think>12?</think> 36-4=32#32") == "32"
        final_answer("The answer is 72 clips.", phrases=True) == "72 clips"
    """
    text = outcome(text)
    if "</" in text:
        text = TAGS.sub("", text)
    answer = _from_tags(text)
    if answer is None:
        box, has_boxes = answering_box(text)
        if has_boxes:
            answer = _from_box(text, box, phrases)
        else:
            phrase, denied = last_phrase(text) if phrases else (-1, False)
            comes_last = phrase > text.rfind("#") or (phrase >= 0 and _ends_in_heading(text))
            answer = (None if denied else _from_phrase(text, phrase)) if comes_last else _after_hashes(text)
    return None if answer is None or len(answer) > MAX_CHARS else answer.strip()


def _from_tags(text: str) -> str | None:
    if "</" not in text:
        return None
    tags = list(_TAG.finditer(text))
    closing = next((index for index in range(len(tags) - 1, -1, -1) if tags[index][1]), -1)
    opening = next((index for index in range(closing - 1, -1, -1) if not tags[index][1]), -1)
    if opening < 0:
        return None
    first_close = next(tag for tag in tags[opening:] if tag[1])
    return None if is_taken_back(text, first_close.end()) else text[tags[opening].end() : first_close.start()]


def _from_box(text: str, box: tuple[int, int, int] | None, phrases: bool) -> str | None:
    end = box[2] + 1 if box else text.rfind("\\boxed")
    later = later_answer(text, end) if phrases else None
    if later:
        return later
    if box is None or later == "" or is_taken_back(text, end):
        return None
    content = unboxed(text[box[1] : box[2]])
    if suffix := SUFFIX.match(text, end):
        content += "\\%" if suffix["percent"] else "^\\circ"
    return content


def _ends_in_heading(text: str) -> bool:
    """Return whether the last line with a `#` is a Markdown heading, or a hashtag such as `#thanks`."""
    last = text.rfind("#")
    if last < 0:
        return False
    start = text.rfind("\n", 0, last) + 1
    line = text[start:].partition("\n")[0]
    run = line.rfind("#") + 1
    in_words = bool(re.match(r"\s{0,3}[*_]{0,3}[A-Za-z]{2,}", line[run:]))
    return bool(_HEADING.match(line) and (in_words or line.lstrip().startswith(("# ", "## ", "### ")))) or (
        in_words and line[run : run + 1].isalpha()
    )


def _after_hashes(text: str) -> str | None:
    last = text.rfind("#")
    if last < 0:
        return None
    line = text[last + 1 :].partition("\n")[0]
    if not line.strip() and (inner := _closed_hashes(text, last)) is not None:
        line = inner
    return None if is_taken_back(text, last + 1 + len(line)) else line


def _closed_hashes(text: str, last: int) -> str | None:
    """Return the text between two runs of hashes on one line, as in `#### 42 ####`."""
    line = text[text.rfind("\n", 0, last) + 1 : last + 1].rstrip("#")
    opening = line.rfind("#")
    return (
        line[opening + 1 :]
        if opening >= 0 and line[:opening].strip("# ") == "" and line[opening + 1 :].strip()
        else None
    )


def _from_phrase(text: str, start: int) -> str | None:
    answer, end = answer_phrase(text, start)
    return None if text[end : end + 1] == "?" or is_taken_back(text, end) else answer
