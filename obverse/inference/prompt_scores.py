"""The two forms in which servers return log-probs of a prompt: vLLM's `prompt_logprobs` and OpenAI's `echo`.

Both are log-probs at temperature 1 and of the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log
from typing import Any, NamedTuple, Protocol

from obverse.inference.server_schemas import ScoredPrompt

TOP = 5  # most probable tokens that the first request asks for: their probabilities sum to at most 1
MAX_TOTAL = 1.01  # of the probabilities of different tokens; bfloat16 may round it above 1
LEAST_TOP = log(1e-7)  # log-prob of the most probable token: no vocabulary has ten million tokens
REPLACEMENT = "\ufffd"  # of bytes that are no whole character

# The texts by which a server may name a token: decoded, or as the vocabulary spells it.
TokenTexts = Callable[[int], frozenset[str]]


class UnusableScores(ValueError):
    """An answer without the log-probs of the tokens that were sent; the message names the field."""


class NotLogProbs(Exception):
    """The server returns other numbers than log-probs, such as logits."""


class Scores(NamedTuple):
    """The log-probs of a prompt's tokens, None for the first, and the tokens as text, None where an answer has none."""

    log_probs: list[float | None]
    texts: list[str | None]


class ScoreForm(Protocol):
    """A form of request and answer."""

    num_generated: int  # tokens that the server generates beside the scores

    def body(self, token_ids: Sequence[int], top: int = 0) -> dict[str, Any]:
        """The request for the log-probs of `token_ids`, and of the `top` most probable tokens at each position."""

    def scores(self, choice: ScoredPrompt, token_ids: Sequence[int]) -> Scores:
        """The scores of `token_ids` in an answer; UnusableScores if it has others or none."""


class PromptLogProbs:
    """vLLM's form: log-probs by token id for each position of the prompt."""

    num_generated = 1

    def body(self, token_ids: Sequence[int], top: int = 0) -> dict[str, Any]:
        return {**_body(token_ids, 1), "prompt_logprobs": top, "return_token_ids": True}

    def scores(self, choice: ScoredPrompt, token_ids: Sequence[int]) -> Scores:
        if choice.prompt_logprobs is None:
            raise UnusableScores("prompt_logprobs is missing")
        if choice.prompt_token_ids is not None and choice.prompt_token_ids != list(token_ids):
            raise UnusableScores("prompt_token_ids differ from the ids that were sent")
        if len(choice.prompt_logprobs) != len(token_ids):
            raise UnusableScores(
                f"prompt_logprobs has {len(choice.prompt_logprobs)} entries for {len(token_ids)} tokens"
            )
        scores = Scores([None], [None])
        for index, (row, token) in enumerate(zip(choice.prompt_logprobs, token_ids, strict=True)):
            score = (row or {}).get(str(token))
            if index == 0:
                continue
            if score is None:
                raise UnusableScores(f"prompt_logprobs.{index} has no log-prob of token {token}")
            log_probs = [min(entry.logprob, 0.0) for entry in (row or {}).values()]
            if (total := sum(map(exp, log_probs))) > MAX_TOTAL:
                raise NotLogProbs(f"the probabilities of prompt_logprobs.{index} sum to {total:.3g}")
            if len(log_probs) >= TOP and max(log_probs) < LEAST_TOP:
                raise NotLogProbs(f"the most probable token of prompt_logprobs.{index} has {max(log_probs):.3g} nats")
            scores.log_probs.append(score.logprob)
            scores.texts.append(score.decoded_token)
        return scores


class Echo:
    """OpenAI's form: the echoed prompt's tokens as text, and their log-probs. Some servers generate at least one."""

    def __init__(self, num_generated: int) -> None:
        self.num_generated = num_generated

    def body(self, token_ids: Sequence[int], top: int = 0) -> dict[str, Any]:
        return {**_body(token_ids, self.num_generated), "echo": True, "logprobs": max(top, 1)}

    def scores(self, choice: ScoredPrompt, token_ids: Sequence[int]) -> Scores:
        if choice.logprobs is None:
            raise UnusableScores("logprobs is missing")
        log_probs, tokens = choice.logprobs.token_logprobs, choice.logprobs.tokens
        if not len(token_ids) <= len(tokens) <= len(token_ids) + self.num_generated or len(log_probs) != len(tokens):
            raise UnusableScores(
                f"logprobs has {len(tokens)} tokens and {len(log_probs)} token_logprobs for {len(token_ids)} tokens"
            )
        log_probs = log_probs[: len(token_ids)]
        if None in log_probs[1:]:
            raise UnusableScores(f"logprobs.token_logprobs.{log_probs[1:].index(None) + 1} is null")
        return Scores([None, *log_probs[1:]], [None, *tokens[1 : len(token_ids)]])


FORMS: tuple[ScoreForm, ...] = (PromptLogProbs(), Echo(0), Echo(1))


def first_other_token(scores: Scores, token_ids: Sequence[int], texts_of: TokenTexts) -> int | None:
    """The position of the first token whose text in an answer is that of another token; None without one.

    Tokens that are a part of a character are not compared (vLLM shows the whole character at its last token), nor those
    whose text a server leaves empty.
    """
    for index, (text, token) in enumerate(zip(scores.texts, token_ids, strict=True)):
        names = texts_of(token)
        if text and not any(map(is_incomplete, (text, *names))) and plain(text) not in {plain(name) for name in names}:
            return index
    return None


def is_incomplete(text: str) -> bool:
    """Whether the text of a token has bytes that are no whole character."""
    return REPLACEMENT in text or text.startswith(("bytes:", "<0x"))


def plain(text: str) -> str:
    """A token's text without what servers write differently: the marks and spaces at its borders."""
    return text.replace("\u2581", " ").replace("\u0120", " ").replace("\u010a", "\n").strip()


def _body(token_ids: Sequence[int], max_tokens: int) -> dict[str, Any]:
    return {"prompt": list(token_ids), "max_tokens": max_tokens, "temperature": 1.0}
