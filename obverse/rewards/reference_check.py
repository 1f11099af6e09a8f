"""How the math verifier reads expected answers that are not what they look like, for a person to look at."""

from __future__ import annotations

from collections.abc import Iterable

from obverse.rewards.math import gold
from obverse.rewards.number_parsing import bare, number
from obverse.rewards.word_answers import letters, words
from obverse.types import Problem

LONG_WORDS = 4  # in words; longer answers are hardly ever said again word for word


def notes(problems: Iterable[Problem]) -> list[str]:
    """Return a line for every sort of expected answer that is read in an unexpected way, with the first one of it."""
    first: dict[str, tuple[Problem, str]] = {}
    numbers: dict[str, int] = {}
    for problem in problems:
        text = gold(problem)
        if kind := _kind(problem, text):
            first.setdefault(kind, (problem, text))
            numbers[kind] = numbers.get(kind, 0) + 1
    return [
        f"{numbers[kind]:,} {'answer' if numbers[kind] == 1 else 'answers'} {kind}: "
        f"{problem.id}: {str(problem.answer)[:80]!a} as {text[:80]!a}"
        for kind, (problem, text) in first.items()
    ]


def _kind(problem: Problem, text: str) -> str:
    """What is unexpected about how an answer is read, "" if nothing is."""
    if isinstance(problem.answer, float) and float(text) != problem.answer:
        return "stored in 32 bits, read as the shortest decimal"
    if isinstance(problem.answer, str) and "boxed" not in problem.answer and text != problem.answer.strip():
        return "in a sentence, of which the end is read"
    plain = bare(text)
    if number(plain) is not None:
        return ""
    if letters(plain):
        return "of letters, compared as a name"
    said = words(plain)
    return "in many words, compared word for word" if said and len(said.split()) > LONG_WORDS else ""
