"""Where an answer's words stand in what a chat template writes of them. No torch here."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """What is trained of an answer but its stop token, and where a place of the answer's own text stands in it."""

    text: str
    place: Callable[[int], int]
    as_written: bool = True  # by the template; else the answer stands as it is, for the template would rewrite it


def as_it_stands(words: str, gap: str) -> Turn:
    """The answer behind the prompt, whatever the template would make of it."""
    return Turn(words + gap, lambda at: min(max(at, 0), len(words)), as_written=False)


def align(turn: str, words: str, ending: str, gap: str, is_inside: bool) -> Turn | None:
    """The turn of an answer `words` that a template has written, up to `ending`: a gap and the stop token.

    A template may write more before the words (a thought), trim them, and change white space within. With `is_inside`
    it may also write more behind them (tool calls). None where the words are not there.
    """
    variants = (words, words.lstrip(), words.strip())
    for variant in variants:
        place = turn.rfind(variant + ending)
        if place >= 0:
            return _around(turn[:place] + variant + gap, place, words.find(variant), len(variant))
    end = turn.rfind(ending) if ending else len(turn.rstrip())
    if end < 0:
        return None
    body = turn[:end]
    for variant in variants if is_inside and words.strip() else ():
        place = body.rfind(variant)
        if place >= 0:
            return _around(body + gap, place, words.find(variant), len(variant))
    if is_inside and not words.strip():
        return Turn(body + gap, lambda at: len(body))
    return _letter_by_letter(body, words, gap)


def _around(text: str, place: int, first: int, length: int) -> Turn:
    return Turn(text, lambda at: place + min(max(at - first, 0), length))


def _letter_by_letter(body: str, words: str, gap: str) -> Turn | None:
    """The words at the end of a body that has other white space between their letters."""
    there = [number for number, letter in enumerate(body) if not letter.isspace()]
    wanted = [number for number, letter in enumerate(words) if not letter.isspace()]
    skip = len(there) - len(wanted)
    if not wanted or skip < 0 or any(body[a] != words[b] for a, b in zip(there[skip:], wanted, strict=True)):
        return None

    def place(at: int) -> int:
        num_letters = bisect_left(wanted, at)
        if num_letters == len(wanted):
            return len(body)
        return there[skip + num_letters - 1] + 1 if num_letters else there[skip]

    return Turn(body + gap, place)
