"""The one rule that finds the final answer in a text; every verifier reads what it returns and nothing else.

Only what follows the last block of reasoning counts (`obverse.rewards.reasoning_blocks`), and nothing after one that is
never closed. In it, the first of these that is there:

1. the last complete `<answer>...</answer>` (or `<final_answer>`);
2. the last balanced `\\boxed{...}` or `\\fbox{...}` that is in no other box, unless, where phrases count, a phrase
   behind it gives another answer;
3. what follows the last run of `#` on the last line that has one: `#### 72`, `36-4=32#32`;
4. only where a verifier asks for phrases: the rest of the sentence after the last "answer is" or "answer:", up to a
   "because", "since", "which" or "as"; it comes before 3 if it stands after the last `#`, or if that is a Markdown
   heading's.

A box that is denied, hedged or part of a formula gives no answer (`obverse.rewards.boxes`), nor does an answer that
the next sentences take back (`obverse.rewards.answer_phrases`). A final answer has at most MAX_CHARS characters. Every
step is linear in the length of the text, whatever it holds.
"""

from __future__ import annotations

import re

from obverse.rewards.answer_context import TAGS
from obverse.rewards.answer_phrases import announced, is_taken_back, last_phrase, later_answer
from obverse.rewards.boxes import SUFFIX, answering, last_box, unboxed
from obverse.rewards.reasoning_blocks import outcome
from obverse.types import GradeResult

__all__ = ["MAX_CHARS", "UNANSWERED", "final_answer", "last_box", "outcome", "unboxed"]

MAX_CHARS = 5_000
UNANSWERED = GradeResult.wrong("no final answer", formatted=False)

_TAG = re.compile(r"<(/?)(?:final[_ -]?)?answer\s{0,3}>", re.IGNORECASE)
_HEADING = re.compile(r"\s{0,3}#{1,6}\s")
_HEADED = re.compile(r"#{1,6}\s{0,3}(?:[*_]{0,3}[A-Za-z]|[*_]{0,3}$)")
_ENDINGS = re.compile(r"[\s#]*$")


def final_answer(text: str, *, phrases: bool = False) -> str | None:
    """Return the final answer of a text, stripped, or None if it gives none; "" means that its place was left empty.

    Example:
        final_answer("<think>12?</think> 36-4=32#32") == "32"
        final_answer("The answer is 72 clips.", phrases=True) == "72 clips"
    """
    text = outcome(text)
    if "</" in text:
        text = TAGS.sub("", text)
    found = _tagged(text)
    if found is None:
        box, has_boxes = answering(text)
        if has_boxes:
            found = _boxed(text, box, phrases)
        else:
            phrase, denied = last_phrase(text) if phrases else (-1, False)
            comes_last = phrase > text.rfind("#") or (phrase >= 0 and _ends_in_heading(text))
            found = (None if denied else _after_phrase(text, phrase)) if comes_last else _after_hash(text)
    return None if found is None or len(found) > MAX_CHARS else found.strip()


def _tagged(text: str) -> str | None:
    if "</" not in text:
        return None
    tags = list(_TAG.finditer(text))
    closing = next((index for index in range(len(tags) - 1, -1, -1) if tags[index][1]), -1)
    opening = next((index for index in range(closing - 1, -1, -1) if not tags[index][1]), -1)
    if opening < 0:
        return None
    first_close = next(tag for tag in tags[opening:] if tag[1])
    return None if is_taken_back(text, first_close.end()) else text[tags[opening].end() : first_close.start()]


def _boxed(text: str, box: tuple[int, int, int] | None, phrases: bool) -> str | None:
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
    """Whether the last line with a `#` is a Markdown heading, or a tag such as `#thanks`."""
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


def _after_hash(text: str) -> str | None:
    last = text.rfind("#")
    if last < 0:
        return None
    line = text[last + 1 :].partition("\n")[0]
    if not line.strip() and (inner := _closed_hashes(text, last)) is not None:
        line = inner
    return None if is_taken_back(text, last + 1 + len(line)) else line


def _closed_hashes(text: str, last: int) -> str | None:
    """`#### 42 ####`: what stands between two runs of hashes on one line."""
    line = text[text.rfind("\n", 0, last) + 1 : last + 1].rstrip("#")
    opening = line.rfind("#")
    return (
        line[opening + 1 :]
        if opening >= 0 and line[:opening].strip("# ") == "" and line[opening + 1 :].strip()
        else None
    )


def _after_phrase(text: str, start: int) -> str | None:
    said, end = announced(text, start)
    return None if text[end : end + 1] == "?" or is_taken_back(text, end) else said
