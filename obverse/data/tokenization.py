"""Text as token ids and back, as it reads behind a prompt. Works on a tokenizer it is given; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNKNOWN = "\ufffd"  # how an id reads that the tokenizer has no token for


class Coder:
    """The ids of texts from their start or behind others, and the text of ids.

    A `mark` is a character that stands where no token may reach across; it has no id itself.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.opening = opening_ids(tokenizer)
        self._anchor = "\n" if writes_leading_space(tokenizer) else ""
        self._anchor_ids = self.encode(self._anchor)

    def encode(self, text: str, mark: str = "") -> list[int]:
        """Ids of a text from its start; what follows a mark goes on from what stands before."""
        first, *others = text.split(mark) if mark else [text]
        ids = list(self.tokenizer(first, add_special_tokens=False, verbose=False)["input_ids"])
        for part in others:
            ids += self._going_on(part)[0]
        return ids

    def _coded(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of a text and the character at which each of them starts; [n] each."""
        if not self.tokenizer.is_fast:  # gives no offsets: a token starts where the text of those before it ends
            ids = self.encode(text)
            return ids, [len(self.tokenizer.decode(ids[:n], skip_special_tokens=False)) for n in range(len(ids))]
        coded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return list(coded["input_ids"]), [start for start, _ in coded["offset_mapping"]]

    def _going_on(self, text: str) -> tuple[list[int], list[int]]:
        """The same for a text that continues a prompt: its first word gets no space that it would not get there."""
        skip = len(self._anchor_ids)
        ids, starts = self._coded(self._anchor + text)
        if ids[:skip] == self._anchor_ids:
            return ids[skip:], [start - len(self._anchor) for start in starts[skip:]]
        return self._coded(text)

    def continuation(self, text: str, mark: str) -> tuple[list[int], list[int]]:
        """The same, part by part where marks stand in the text; places count them."""
        ids: list[int] = []
        starts: list[int] = []
        offset = 0
        for part in text.split(mark) if mark else [text]:
            more, places = self._going_on(part)
            ids += more
            starts += [offset + place for place in places]
            offset += len(part) + len(mark)
        return ids, starts

    @cached_property
    def _known(self) -> frozenset[int]:
        return frozenset(self.tokenizer.get_vocab().values())

    def decode(self, ids: Sequence[int]) -> str:
        """Every id as text, as it reads behind a prompt; an id without a token (a padded vocabulary's) as U+FFFD.

        Left out it would join what stands around it, and "4?2" would be graded as 42.
        """
        if not self._known.issuperset(ids):
            runs = groupby(ids, self._known.__contains__)
            return "".join(self.decode(list(run)) if known else UNKNOWN * len(list(run)) for known, run in runs)
        whole = self.tokenizer.decode(
            [*self._anchor_ids, *ids], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(whole).removeprefix(self._anchor)


def opening_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts before every text by itself: usually BOS or nothing."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    places = [n for n in range(len(full)) if full[n : n + len(bare)] == bare]
    return full[: places[0]] if places else []


def writes_leading_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text's first word gets a space that the same word behind a prompt would not get (Llama 2's way)."""
    alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    line = tokenizer("\n", add_special_tokens=False)["input_ids"]
    return list(tokenizer("\na", add_special_tokens=False)["input_ids"]) != [*line, *alone]


def named_specials(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """BOS, eos and pad where they are tokens of their own; a pad token that is an ordinary word is text."""
    named = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    return frozenset(named & tokenizer.added_tokens_decoder.keys())
