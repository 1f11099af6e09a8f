"""The part of a completion that follows the last block of reasoning, in every notation in use.

Tags are `<think>`, `<thinking a="b">`, `[THINK]`, `<|begin_of_thought|>`, `<ns:reasoning>` and the like, in any case,
with `/`, `end` or `_end` in the closing tag, and channels such as `<|channel|>analysis<|message|>`. Blocks may be
nested. A closing tag without an opening one ends a block that the prompt opened. Text after an opening tag that is
never closed belongs to the reasoning.
"""

from __future__ import annotations

import re

_KINDS = (
    r"think(?:ing)?|thoughts?|reason(?:ing)?|reflect(?:ion)?|analysis|scratch[_-]?pad|cot|chain[_-]of[_-]thought"
    r"|(?:inner|internal)[_-](?:monologue|thoughts?)|monologue|deliberation|draft"
)
_MARK = re.compile(
    r"(?:<|\[(?=[\s|/\\]{0,3}(?:(?:begin|start|end)[_ ]?(?:of[_ ]?)?)?(?:think|thought|reasoning))|\u25c1|&lt;)"
    r"\|?\s{0,3}(?P<slash>\\?/)?\s{0,3}(?:[a-z][\w-]{0,19}:)?"
    r"(?:(?P<begin>begin|start|open)[_\s-]?|(?P<end>end|close)[_\s-]?)?(?:of[_\s-]?)?"
    rf"(?:{_KINDS})(?:[_\s-](?:(?P<begun>begin|start|open)|(?P<ended>end|close)))?"
    r"(?:[\s:=][^<>\[\]\u25b7]{0,200})?\s{0,3}\|?(?:>|\]|\u25b7|&gt;)"
    r"|<\|?channel\|?>\s{0,3}(?P<channel>[a-z]{1,20})|(?P<over><\|(?:end|return)\|>|<channel\|>)",
    re.IGNORECASE,
)
_WORDS = (
    "hink",
    "HINK",
    "thought",
    "THOUGHT",
    "Thought",
    "eason",
    "EASON",
    "eflect",
    "EFLECT",
    "analysis",
    "ANALYSIS",
    "Analysis",
)
_RARE_WORDS = (
    "cratch",
    "CRATCH",
    "cot",
    "COT",
    "CoT",
    "onologue",
    "ONOLOGUE",
    "eliberation",
    "draft",
    "Draft",
    "DRAFT",
    "channel",
)
_FLAT_CHANNELS = re.compile(r"\A\s{0,9}analysis.*assistantfinal", re.DOTALL)  # special tokens were skipped
_SPECIAL = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<\uff5c[^<>\uff5c]{1,40}\uff5c>|</?s>|<(?:eos|bos|pad|eot|im_end|end_of_turn"
    r"|start_of_turn)>|\[/?INST\]",
    re.IGNORECASE,
)


def outcome(text: str) -> str:
    """Return the text after the last block of reasoning, up to an unclosed one, with special tokens as line ends.

    Example:
        outcome("<Thinking>12?</Thinking> It is 13.<|im_end|>").strip() == "It is 13."
    """
    start, end = span(text)
    text = text[start:end]
    if 0 <= text.find("<s>") < text.rfind("</s>"):
        text = text.replace("<s>", "~~")  # HTML strikethrough, not special tokens
    return _SPECIAL.sub("\n", text) if "<" in text or "[" in text else text


def has_reasoning(text: str) -> bool:
    """Return whether a text contains a tag of reasoning."""
    return span(text) != (0, len(text))


def span(text: str) -> tuple[int, int]:
    """Return the start and the end of the outcome in a text."""
    start, end, depth = 0, len(text), 0
    if text.startswith("analysis") and (flat := _FLAT_CHANNELS.match(text)):
        start = flat.end()
    if not ("<" in text or "[" in text or "\u25c1" in text or "&lt;" in text):
        return start, end
    if not any(word in text for word in _WORDS) and not any(word in text for word in _RARE_WORDS):
        return start, end
    in_channel = False
    for mark in _marks(text, start):
        if mark["over"]:
            if not in_channel:
                continue
            closes, in_channel = True, False
        elif channel := mark["channel"]:
            closes = channel.lower() == "final" or in_channel
            depth, in_channel = (0 if closes else depth), False
            if channel.lower() != "final":
                in_channel, closes = True, False
        else:
            closes = bool(mark["slash"] or mark["end"] or mark["ended"])
        if closes:
            depth = max(0, depth - 1)
            start, end = (mark.end(), len(text)) if depth == 0 else (start, end)
        else:
            end = mark.start() if depth == 0 else end
            depth += 1
    return start, end


def _marks(text: str, first: int) -> list[re.Match[str]]:
    """Return the tags from position `first` on, in order."""
    starts = []
    for opening in ("<", "[", "\u25c1", "&lt;"):
        start = text.find(opening, first)
        while start >= 0:
            starts.append(start)
            start = text.find(opening, start + 1)
    return [mark for start in sorted(starts) if (mark := _MARK.match(text, start))]
