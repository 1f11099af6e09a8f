"""Token ids of texts and texts of token ids, at the start or after a prompt. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNKNOWN = "\ufffd"  # text of an id without a token


class TokenCodec:
    """Encodes texts, at the start or as the continuation of a prompt, and decodes ids.

    A `mark` is a character that no token may span; it is removed and has no id.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.opening = opening_ids(tokenizer)
        self._anchor = "\n" if writes_leading_space(tokenizer) else ""
        self._anchor_ids = self.encode(self._anchor)

    def encode(self, text: str, mark: str = "") -> list[int]:
        """Return the ids of a text at the start; parts after a mark are encoded as continuations."""
        first, *following = text.split(mark) if mark else [text]
        ids = list(self.tokenizer(first, add_special_tokens=False, verbose=False)["input_ids"])
        for part in following:
            ids += self._encode_continuation(part)[0]
        return ids

    def _encode_with_offsets(self, text: str) -> tuple[list[int], list[int]]:
        """Return the ids of a text and the positions of their first characters; [n] each."""
        if not self.tokenizer.is_fast:  # without offsets: a token starts at the end of the text before it
            ids = self.encode(text)
            return ids, [len(self.tokenizer.decode(ids[:n], skip_special_tokens=False)) for n in range(len(ids))]
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return list(encoding["input_ids"]), [start for start, _ in encoding["offset_mapping"]]

    def _encode_continuation(self, text: str) -> tuple[list[int], list[int]]:
        """Return ids and positions of a text after a prompt, without the space that some tokenizers add."""
        skip = len(self._anchor_ids)
        ids, starts = self._encode_with_offsets(self._anchor + text)
        if ids[:skip] == self._anchor_ids:
            return ids[skip:], [start - len(self._anchor) for start in starts[skip:]]
        return self._encode_with_offsets(text)

    def continuation(self, text: str, mark: str) -> tuple[list[int], list[int]]:
        """Return ids and positions of a text after a prompt, split at marks; positions include the marks."""
        ids: list[int] = []
        starts: list[int] = []
        offset = 0
        for part in text.split(mark) if mark else [text]:
            part_ids, part_starts = self._encode_continuation(part)
            ids += part_ids
            starts += [offset + start for start in part_starts]
            offset += len(part) + len(mark)
        return ids, starts

    @cached_property
    def _vocabulary_ids(self) -> frozenset[int]:
        return frozenset(self.tokenizer.get_vocab().values())

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids after a prompt; ids without a token (of a padded vocabulary) become U+FFFD.

        If they were dropped, the text around them would be joined, and "4?2" would be graded as 42.
        """
        if not self._vocabulary_ids.issuperset(ids):
            runs = groupby(ids, self._vocabulary_ids.__contains__)
            return "".join(
                self.decode(list(run)) if in_vocabulary else UNKNOWN * len(list(run)) for in_vocabulary, run in runs
            )
        text = self.tokenizer.decode(
            [*self._anchor_ids, *ids], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(text).removeprefix(self._anchor)


def opening_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that the tokenizer adds before every text: usually BOS or none."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    positions = [n for n in range(len(full)) if full[n : n + len(bare)] == bare]
    return full[: positions[0]] if positions else []


def writes_leading_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer adds a space before the first word of a text (as Llama 2's does)."""
    alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    line = tokenizer("\n", add_special_tokens=False)["input_ids"]
    return list(tokenizer("\na", add_special_tokens=False)["input_ids"]) != [*line, *alone]


def named_specials(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids of BOS, EOS and padding that are added tokens; a padding token that is a word is text."""
    named = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    return frozenset(named & tokenizer.added_tokens_decoder.keys())
