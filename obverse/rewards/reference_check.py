"""Notes on reference answers that the math verifier interprets in an unexpected way, for a person to check."""

from __future__ import annotations

from collections.abc import Iterable

from obverse.rewards.math import gold
from obverse.rewards.number_parsing import bare, number
from obverse.rewards.word_answers import letters, words
from obverse.types import Problem

LONG_WORDS = 4  # longer answers are unlikely to be repeated word for word


def notes(problems: Iterable[Problem]) -> list[str]:
    """Return a line for every kind of reference answer that is interpreted in an unexpected way, with one example."""
    first_of_kind: dict[str, tuple[Problem, str]] = {}
    counts: dict[str, int] = {}
    for problem in problems:
        text = gold(problem)
        if kind := _kind(problem, text):
            first_of_kind.setdefault(kind, (problem, text))
            counts[kind] = counts.get(kind, 0) + 1
    return [
        f"{counts[kind]:,} {'answer' if counts[kind] == 1 else 'answers'} {kind}: "
        f"{problem.id}: {str(problem.answer)[:80]!a} as {text[:80]!a}"
        for kind, (problem, text) in first_of_kind.items()
    ]


def _kind(problem: Problem, text: str) -> str:
    """Return what is unexpected about the interpretation of an answer, "" if nothing is."""
    if isinstance(problem.answer, float) and float(text) != problem.answer:
        return "stored in 32 bits, read as the shortest decimal"
    if isinstance(problem.answer, str) and "boxed" not in problem.answer and text != problem.answer.strip():
        return "in a sentence, of which the end is read"
    plain = bare(text)
    if number(plain) is not None:
        return ""
    if letters(plain):
        return "of letters, compared as a name"
    spelled = words(plain)
    return "in many words, compared word for word" if spelled and len(spelled.split()) > LONG_WORDS else ""
