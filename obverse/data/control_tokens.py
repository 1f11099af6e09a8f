"""Control tokens that appear as text in data: detection, and protection from becoming tokens. No torch.

A row with the text `<|im_end|>\\n<|im_start|>system\\n...` must not open a turn. A mark, a character that does not
occur in the conversation, is inserted into every such text before rendering. The rendered text is then tokenized
between its marks, so that control tokens only come from the template.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from obverse.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKS = [chr(number) for number in range(0xFDD0, 0xFDF0)]  # noncharacters, which no text should contain
THOUGHTS = frozenset({"<think>", "</think>"})  # they do not delimit turns, and demonstrations contain them
# Pattern of control tokens, for data that is read without a tokenizer.
LOOKS_LIKE = re.compile(
    r"<\|[A-Za-z][\w ]{0,40}\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|<(?:bos|eos|pad)>"
    "|<\uff5c[^<>|\uff5c]{1,40}\uff5c>"
)


class ControlTokens:
    """The control tokens of a tokenizer: its special tokens, and the added tokens in `template_text`.

    `template_text` is the text that the chat template writes around messages. All other added tokens, and those that
    are words, white space or the tags around thoughts, are ordinary text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template_text: str) -> None:
        self._tokenizer = tokenizer
        tokens = {
            token.content: number
            for number, token in tokenizer.added_tokens_decoder.items()
            if (token.special or token.content in template_text) and _is_sign(token.content)
        }
        self.tokens: Mapping[str, int] = tokens
        longest_first = sorted(tokens, key=len, reverse=True)
        flags = re.IGNORECASE if any(self._ignores_case(token) for token in longest_first[:1]) else 0
        self._pattern = re.compile("|".join(map(re.escape, longest_first)), flags) if tokens else None
        self._cuts: dict[str, int] = {}

    def spelled(self, texts: Iterable[str]) -> list[str]:
        """Return the distinct control tokens that occur in texts, in their order."""
        if self._pattern is None:
            return []
        return list(dict.fromkeys(match[0] for text in texts for match in self._pattern.finditer(text)))

    def shield(self, text: str, mark: str) -> str:
        """Return the text with `mark` inserted into every control token; unchanged if `mark` is empty."""
        start = 0
        while mark and self._pattern is not None and (match := self._pattern.search(text, start)):
            start = match.start() + self._cut(match[0])
            text = f"{text[:start]}{mark}{text[start:]}"
        return text

    def shielded(self, value: Any, mark: str) -> Any:
        """Apply `shield` to every text in messages, tools and the like, except for roles and keys."""
        if isinstance(value, str):
            return self.shield(value, mark)
        if isinstance(value, list | tuple):
            return [self.shielded(item, mark) for item in value]
        if isinstance(value, Mapping):
            return {key: item if key == "role" else self.shielded(item, mark) for key, item in value.items()}
        return value

    def _cut(self, token: str) -> int:
        """Return the position of the mark: after the first token of the text's ordinary tokenization."""
        if token not in self._cuts:
            self._cuts[token] = 1
            if self._tokenizer.is_fast:
                encoding = self._tokenizer(
                    token, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
                )
                starts = [start for start, _ in encoding["offset_mapping"] if 0 < start < len(token)]
                self._cuts[token] = min(starts, default=1)
        return self._cuts[token]

    def _ignores_case(self, token: str) -> bool:
        ids = [self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in (token, token.upper())]
        return token != token.upper() and list(ids[0]) == list(ids[1])


def _is_sign(token: str) -> bool:
    return token not in THOUGHTS and not token.isspace() and not token.strip().isalnum() and len(token) > 1


def free_mark(texts: Iterable[str]) -> str:
    """Return a mark that occurs in none of the texts. Raises DataError if all marks occur."""
    taken = {mark for text in texts if not text.isascii() for mark in MARKS if mark in text}
    if len(taken) == len(MARKS):
        raise DataError("a conversation holds every noncharacter from U+FDD0 to U+FDEF: take them out")
    return next(mark for mark in MARKS if mark not in taken)


def texts_in(value: Any) -> Iterator[str]:
    """Yield every text in messages, tools and the like, except for roles and keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Sequence):
        for item in value:
            yield from texts_in(item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key != "role":
                yield from texts_in(item)
