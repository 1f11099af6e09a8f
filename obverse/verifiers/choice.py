"""Multiple choice: the final answer is a letter, `B`, `(B)`, `B.` or `B) text`, or the text of the right option.

The options are the list `choices` of the row, if it has one; they are lettered from A in their order.
"""

from __future__ import annotations

import re
from typing import Any

from obverse.errors import GraderError
from obverse.records import Problem, Verdict
from obverse.verifiers.extract import UNANSWERED, final_answer, outcome

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?")
_LETTERED = re.compile(r"(?:\(([A-Z])\)|([A-Z])[.:)])\s+(.*)", re.DOTALL)


def gold(problem: Problem) -> str:
    """Return the letter of the right option.

    Errors: GraderError if the answer is neither a letter nor one of `choices`, or if `choices` is no list of text.
    """
    options = _options(problem)
    if not isinstance(problem.answer, str):
        raise GraderError(f"the choice verifier needs a letter or an option, not {type(problem.answer).__name__}")
    letter = _letter(problem.answer.strip(), options)
    if letter is None or (options and letter not in options):
        raise GraderError("neither a letter nor one of choices")
    return letter


def answer(problem: Problem, text: str) -> str | None:
    """Return the final answer; "answer: B" and a text that is nothing but a choice count too."""
    found = final_answer(text, phrases=True)
    if found is None:
        whole = outcome(text).strip()
        found = whole if _letter(whole, _options(problem)) else None
    return found


def same(problem: Problem, first: str, second: str) -> bool:
    """Whether two final answers mean the same option."""
    options = _options(problem)
    letter = _letter(first, options)
    return first == second or (letter is not None and letter == _letter(second, options))


def stated(problem: Problem) -> str:
    """Return a text that gives the expected answer."""
    return f"<answer>{gold(problem)}</answer>"


def verify(problem: Problem, text: str) -> Verdict:
    """Right if the final answer means the right option.

    Example:
        verify(Problem("p", "...", answer="B", meta={"choices": ["Rome", "Paris"]}), "The answer is Paris.").correct
    """
    expected, found = gold(problem), answer(problem, text)
    if not found:
        return UNANSWERED
    letter = _letter(found, _options(problem))
    if letter is None:
        return Verdict.wrong(f"{found[:80]!a} is neither a letter nor an option")
    return Verdict.right() if letter == expected else Verdict.wrong(f"{letter} is not the answer")


def _options(problem: Problem) -> dict[str, str]:
    """The options by letter, in one spelling; none if the row has none."""
    choices: Any = problem.meta.get("choices")
    if choices is None:
        return {}
    if not isinstance(choices, list) or any(not isinstance(choice, str) for choice in choices):
        raise GraderError("choices must be a list of text")
    if not 0 < len(choices) <= len(LETTERS):
        raise GraderError(f"choices must have 1 to {len(LETTERS)} entries")
    return {letter: _spelled(choice) for letter, choice in zip(LETTERS, choices, strict=False)}


def _letter(said: str, options: dict[str, str]) -> str | None:
    """Which option is meant: by its text, by its letter alone, or by letter and text if they do not disagree."""
    by_text = [letter for letter, option in options.items() if option == _spelled(said)]
    if len(by_text) == 1:
        return by_text[0]
    if alone := _LETTER.fullmatch(said):
        return alone.group(1).upper()
    lettered = _LETTERED.fullmatch(said)
    if lettered is None:
        return None
    letter = lettered.group(1) or lettered.group(2)
    others = [option for other, option in options.items() if other != letter]
    return None if _spelled(lettered.group(3)) in others else letter


def _spelled(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
