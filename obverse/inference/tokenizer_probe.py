"""Texts and token ids by which two programs find out whether they use the same tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Digits, signs, spaces and letters beyond ASCII: different tokenizers split it differently.
TEXT = (
    "Let x = 17 + 25; then x\u00b2 is \u201c1,764\u201d.\n\n  Answer: \\boxed{42} gr\u00f6\u00dfer \u6771\u4eac #### 7"
)
MAX_CHARACTERS = 4096  # different characters of the rows that are compared, the most frequent ones first


class TokenizerProbe:
    """Texts that cover a run's characters and special tokens, with their ids by the run's tokenizer.

    Args:
        tokenizer: The tokenizer of the run.
        characters: The different characters of the run's rows; the first MAX_CHARACTERS are compared.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, characters: Iterable[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.characters = [*dict.fromkeys(characters)][:MAX_CHARACTERS]
        self._texts: dict[int, frozenset[str]] = {}

    @cached_property
    def special_tokens(self) -> list[str]:
        """The special and the added tokens, as text."""
        added = self.tokenizer.get_added_vocab()
        return [*dict.fromkeys([*self.tokenizer.all_special_tokens, *sorted(added, key=added.__getitem__)])]

    def texts(self, max_characters: int) -> list[str]:
        """Texts of about `max_characters` or fewer, but for the first one, which is TEXT."""
        rows = [
            self.characters[start : start + max_characters] for start in range(0, len(self.characters), max_characters)
        ]
        texts = [TEXT, *("".join(row) for row in rows)]
        for token in self.special_tokens:
            if len(texts) == len(rows) + 1 or len(texts[-1]) + len(token) > max_characters:
                texts.append(token)
            else:
                texts[-1] += token
        return texts

    def ids(self, text: str) -> list[int]:
        """The token ids of a text, without tokens that the tokenizer adds around one."""
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def texts_of(self, token: int) -> frozenset[str]:
        """The texts by which a server may name a token: decoded, and as the vocabulary spells it."""
        if token not in self._texts:
            spelled = self.tokenizer.convert_ids_to_tokens(token)
            self._texts[token] = frozenset({self.tokenizer.decode([token]), "" if spelled is None else str(spelled)})
        return self._texts[token]
