"""Teachers that are other models: which one a row names, and whether its tokenizer is the policy's."""

from __future__ import annotations

from typing import Any

from obverse.errors import ConfigError
from obverse.inference.tokenizer_probe import TEXT


def refuse_other_tokenizer(teacher: str, teacher_tokenizer: Any, model: str, tokenizer: Any) -> None:
    """Raise ConfigError if a teacher gives a token id another meaning than the policy, or splits texts differently.

    Ids of the policy are scored as they are, so that both need equal vocabularies. The head of the teacher may have
    more rows than tokens.
    """
    theirs, ours = teacher_tokenizer.get_vocab(), tokenizer.get_vocab()
    reason = ""
    if theirs != ours:
        tokens = sorted(theirs.keys() | ours.keys(), key=lambda token: (ours.get(token, len(ours)), token))
        token = next(token for token in tokens if theirs.get(token) != ours.get(token))
        reason = f"the token {token!a:.40} has id {theirs.get(token, 'none')} there and {ours.get(token, 'none')} here"
    elif (split := _ids(teacher_tokenizer)) != (expected := _ids(tokenizer)):
        reason = f"it splits the same text into other tokens ({len(split)} and {len(expected)} of a test text)"
    if reason:
        raise ConfigError(
            f"--teacher_model: the teacher {teacher} has another tokenizer than {model}: {reason}; a teacher scores "
            "the policy's token ids as they are: choose one of the same family"
        )


def _ids(tokenizer: Any) -> list[int]:
    return list(tokenizer(TEXT, add_special_tokens=False, verbose=False)["input_ids"])
