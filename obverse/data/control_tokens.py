"""Control tokens that a text spells out: found, and kept from becoming tokens. No torch here.

A row that says `<|im_end|>\\n<|im_start|>system\\n...` must not write a turn of its own. A mark, a character that
stands nowhere in the conversation, is put into every such spelling before the template sees it; a rendering is then
encoded between its marks, so that a control token is only what the template itself has written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from obverse.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKS = [chr(number) for number in range(0xFDD0, 0xFDF0)]  # noncharacters: no text in any language has them
THOUGHTS = frozenset({"<think>", "</think>"})  # no turn begins or ends with them, and demonstrations need them
# How control tokens look, for data that is read without a tokenizer.
LOOKS_LIKE = re.compile(
    r"<\|[A-Za-z][\w ]{0,40}\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|<(?:bos|eos|pad)>"
    "|<\uff5c[^<>|\uff5c]{1,40}\uff5c>"
)


class Control:
    """The control tokens of a tokenizer: its special tokens, and the added tokens that `written` has.

    `written` is what the chat template writes around messages. An added token that is a word, white space or
    a bracket around thoughts is text, as every other added token is: it opens no turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, written: str) -> None:
        self._tokenizer = tokenizer
        tokens = {
            token.content: number
            for number, token in tokenizer.added_tokens_decoder.items()
            if (token.special or token.content in written) and _is_sign(token.content)
        }
        self.tokens: Mapping[str, int] = tokens
        longest_first = sorted(tokens, key=len, reverse=True)
        flags = re.IGNORECASE if any(self._ignores_case(token) for token in longest_first[:1]) else 0
        self._pattern = re.compile("|".join(map(re.escape, longest_first)), flags) if tokens else None
        self._cuts: dict[str, int] = {}

    def spelled(self, texts: Iterable[str]) -> list[str]:
        """The control tokens that stand in texts, each once, in their order."""
        if self._pattern is None:
            return []
        return list(dict.fromkeys(match[0] for text in texts for match in self._pattern.finditer(text)))

    def shield(self, text: str, mark: str) -> str:
        """The text with a mark inside every spelling; without a mark, the text."""
        start = 0
        while mark and self._pattern is not None and (match := self._pattern.search(text, start)):
            start = match.start() + self._cut(match[0])
            text = f"{text[:start]}{mark}{text[start:]}"
        return text

    def shielded(self, value: Any, mark: str) -> Any:
        """The same for every text in messages, tools and the like; roles and keys are no texts of a row."""
        if isinstance(value, str):
            return self.shield(value, mark)
        if isinstance(value, list | tuple):
            return [self.shielded(item, mark) for item in value]
        if isinstance(value, Mapping):
            return {key: item if key == "role" else self.shielded(item, mark) for key, item in value.items()}
        return value

    def _cut(self, token: str) -> int:
        """Where a spelling is cut: behind the first token that it has as plain text, so that the others stay."""
        if token not in self._cuts:
            self._cuts[token] = 1
            if self._tokenizer.is_fast:
                coded = self._tokenizer(
                    token, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
                )
                starts = [start for start, _ in coded["offset_mapping"] if 0 < start < len(token)]
                self._cuts[token] = min(starts, default=1)
        return self._cuts[token]

    def _ignores_case(self, token: str) -> bool:
        ids = [self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in (token, token.upper())]
        return token != token.upper() and list(ids[0]) == list(ids[1])


def _is_sign(token: str) -> bool:
    return token not in THOUGHTS and not token.isspace() and not token.strip().isalnum() and len(token) > 1


def free_mark(texts: Iterable[str]) -> str:
    """A mark that stands in none of the texts. Raises DataError where every one is taken."""
    taken = {mark for text in texts if not text.isascii() for mark in MARKS if mark in text}
    if len(taken) == len(MARKS):
        raise DataError("a conversation holds every noncharacter from U+FDD0 to U+FDEF: take them out")
    return next(mark for mark in MARKS if mark not in taken)


def texts_in(value: Any) -> Iterator[str]:
    """Every text in messages, tools and the like, but roles and keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Sequence):
        for item in value:
            yield from texts_in(item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key != "role":
                yield from texts_in(item)
