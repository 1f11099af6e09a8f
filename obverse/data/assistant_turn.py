"""The assistant's turn as a chat template writes it, and the position of the answer's characters in it. No torch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class AssistantTurn:
    """The trained text of an assistant's turn without its stop token.

    Attributes:
        text: The text.
        map_position: Maps a position in the answer to the position in `text`.
        as_written: False if the answer is used verbatim because the template would rewrite it.
    """

    text: str
    map_position: Callable[[int], int]
    as_written: bool = True  # by the template; else the answer is used verbatim


def verbatim(answer: str, gap: str) -> AssistantTurn:
    """Return the answer verbatim, followed by the template's `gap`."""
    return AssistantTurn(answer + gap, lambda position: min(max(position, 0), len(answer)), as_written=False)


def align(turn: str, answer: str, ending: str, gap: str, is_inside: bool) -> AssistantTurn | None:
    """Find an answer in a turn that a template has written; None if it is not in it.

    Args:
        turn: The template's text after the prompt.
        answer: The answer's text. The template may write text before it (a thought), strip it and change white space.
        ending: The gap and the stop token at the end of the turn.
        gap: Text between an answer and its stop token.
        is_inside: The template may also write text after the answer (tool calls).
    """
    variants = (answer, answer.lstrip(), answer.strip())
    for variant in variants:
        start = turn.rfind(variant + ending)
        if start >= 0:
            return _with_text(turn[:start] + variant + gap, start, answer.find(variant), len(variant))
    end = turn.rfind(ending) if ending else len(turn.rstrip())
    if end < 0:
        return None
    body = turn[:end]
    for variant in variants if is_inside and answer.strip() else ():
        start = body.rfind(variant)
        if start >= 0:
            return _with_text(body + gap, start, answer.find(variant), len(variant))
    if is_inside and not answer.strip():
        return AssistantTurn(body + gap, lambda position: len(body))
    return _ignoring_space(body, answer, gap)


def _with_text(text: str, start: int, offset: int, length: int) -> AssistantTurn:
    return AssistantTurn(text, lambda position: start + min(max(position - offset, 0), length))


def _ignoring_space(body: str, answer: str, gap: str) -> AssistantTurn | None:
    """Find the answer at the end of a body with different white space between its characters."""
    positions = [position for position, character in enumerate(body) if not character.isspace()]
    answer_positions = [position for position, character in enumerate(answer) if not character.isspace()]
    num_before = len(positions) - len(answer_positions)
    if not answer_positions or num_before < 0:
        return None
    positions = positions[num_before:]
    if [body[position] for position in positions] != [answer[position] for position in answer_positions]:
        return None

    def map_position(position: int) -> int:
        num_characters = bisect_left(answer_positions, position)
        if num_characters == len(answer_positions):
            return len(body)
        return positions[num_characters - 1] + 1 if num_characters else positions[0]

    return AssistantTurn(body + gap, map_position)
