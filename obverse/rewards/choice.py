"""Multiple choice: the final answer is a letter (`B`, `(B)`, `B.`, `option B`, `B) text`) or the text of an option.

A single letter always names an option by its letter, even if another option has that letter as its text. Two letters,
or a letter with the text of another option, are not a choice; "B, not A" and "leaving B" are B.

The options are the row's list `choices`, if it has one, lettered from A.
"""

from __future__ import annotations

import re
from typing import Any

from obverse.errors import GraderError
from obverse.rewards import math
from obverse.rewards.answer_extraction import UNANSWERED, final_answer, outcome
from obverse.rewards.answer_phrases import is_taken_back
from obverse.rewards.normalization import in_latex
from obverse.types import GradeResult, Problem

MAX_CHARS = 2_000
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_NAMED = r"(?:(?:the\s(?:correct|right|best)\s(?:option|choice|answer)\sis:?"
_NAMED += r"|option|choice|letter|answer|it is|it's|(?:I|we) (?:think|believe|choose|pick)(?: it is)?)\s+)*"
_LETTER = re.compile(rf"{_NAMED}[(\[{{]?\s*([A-Za-z])\s*[)\]}}]?[.:]?", re.IGNORECASE)
_NOT_OTHERS = re.compile(
    rf"{_NAMED}[(\[]?([A-Z])[)\]]?,?\s+(?:(?:and|but)\s+)?(?:not|rather than"
    rf"|instead of)\s+[(\[]?[A-Z][)\]]?(?:\s*(?:,|or|and|nor)\s*[(\[]?[A-Z][)\]]?)*\.?"
)
_LEAVING = re.compile(r"[^.?!\n]{0,80}\b(?:leaving|leaves)\s+(?:us\s+with\s+)?(?:only\s+)?[(\[]?([A-Z])[)\]]?\.?")
_LETTERED = re.compile(rf"{_NAMED}(?:[(\[]([A-Z])[)\]]|([A-Z])(?:[.:)]|\s+-))\s+(.*)", re.DOTALL)
_WRAPPED = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mathit|mbox|boxed)\s*\{([^{}]*)\}")
_LABEL = re.compile(r"\A\\(?:text|textbf|textrm|mathrm|mathbf)\s*\{\s*\(?([A-Z])[).]?\s*\}")
_FORMULA = re.compile(r"[0-9\\$^=]|^[a-z]$")
_CHOSEN = re.compile(
    r"(?:\A|[\n.]\s*)(?:so\s|thus\s|therefore,?\s|hence\s)?(?:i|we)(?:'d|\swould|'ll|\swill)?\s(?:go\swith|choose"
    r"|chose|pick|select|answer)"
    r"\s(?:option\s|choice\s)?[(\[]?([A-Z])[)\]]?[.!]?\s*\Z",
    re.IGNORECASE,
)
_NAMING = re.compile(
    r"(?:\A|[\n.,]\s*)(?:so|thus|therefore|hence|then)?,?\s*(?:the\s)?(?:correct|right|best|final)\s(?:option|choice)"
    r"(?:\sis)?\s*:?\s*\**[(\[]?([A-Z])[)\]]?\**(?:[.!]|\s[^\n]*)?\s*\Z"
    r"|(?:\A|[\n.,]\s*)(?:(?:so|thus|therefore|hence|then),?\s)?(?:option\s|choice\s)?\**[(\[]?([A-Z])[)\]]?\**\sis\s(?:the\s)?"
    r"(?:correct|right)(?:\s(?:answer|option|choice|one))?[.!]?\s*\Z",
    re.IGNORECASE,
)
_TRAILED = re.compile(r"(.+?)\s*[(\[]([A-Z])[)\]]")
_UNSURE = re.compile(
    r"\s*(?:or|and|maybe|perhaps|possibly|not|wrong|incorrect|is\s(?:not|wrong|incorrect|false)|\?)\b", re.IGNORECASE
)


def gold(problem: Problem) -> str:
    """Return the letter of the correct option.

    Errors: GraderError if the reference is neither a letter nor one of `choices`, or `choices` is not a list of text.
    """
    options = _options(problem)
    if not isinstance(problem.answer, str):
        raise GraderError(f"the choice verifier needs a letter or an option, not {type(problem.answer).__name__}")
    reference = problem.answer.strip()
    letter = reference if reference in options else _letter(reference, options)
    if letter is None or (options and letter not in options):
        raise GraderError("neither a letter nor one of choices")
    return letter


def extract(problem: Problem, text: str) -> str | None:
    """Return the final answer; "answer: B" and a completion that consists of a choice only count too."""
    answer = final_answer(text, phrases=True)
    if answer is None:
        whole, options = outcome(text).strip(), _options(problem)
        first, _, following = whole.partition("\n")
        if _letter(whole, options):
            answer = whole
        elif chosen := _CHOSEN.search(whole):
            answer = chosen[1]
        elif naming := _NAMING.search(whole):
            letter = naming[1] or naming[2]
            after_letter = whole[naming.end(1) if naming[1] else naming.end(2) :]
            answer = letter.upper() if not is_taken_back(after_letter, 0) and not _UNSURE.match(after_letter) else None
        elif (
            _letter(first.strip(), options)
            and following.strip()
            and not is_taken_back(following, 0)
            and not _starts_with_choice(following, options)
        ):
            answer = first.strip()
    return answer


def same_answer(problem: Problem, first: str, second: str) -> bool:
    """Return whether two final answers name the same option."""
    options = _options(problem)
    letter = _letter(first, options)
    return first == second or (letter is not None and letter == _letter(second, options))


def example(problem: Problem) -> str:
    """Return a completion that gives the reference answer."""
    return f"<answer>{gold(problem)}</answer>"


def verify(problem: Problem, text: str) -> GradeResult:
    """Grade a completion: correct if the final answer names the correct option.

    Example:
        verify(Problem("p", "...", answer="B", meta={"choices": ["Rome", "Paris"]}), "The answer is Paris.").correct
    """
    expected, answer = gold(problem), extract(problem, text)
    if not answer:
        return UNANSWERED
    letter = _letter(answer, _options(problem))
    if letter is None:
        return GradeResult.failed(f"{answer[:80]!a} is neither a letter nor an option")
    return GradeResult.passed() if letter == expected else GradeResult.failed(f"{letter} is not the answer")


def _options(problem: Problem) -> dict[str, str]:
    """Return the options by letter; empty if the row has none."""
    choices: Any = problem.meta.get("choices")
    if choices is None:
        return {}
    if not isinstance(choices, list) or any(not isinstance(choice, str) for choice in choices):
        raise GraderError("choices must be a list of text")
    if not 0 < len(choices) <= len(LETTERS):
        raise GraderError(f"choices must have 1 to {len(LETTERS)} entries")
    return dict(zip(LETTERS, choices, strict=False))


def _starts_with_choice(text: str, options: dict[str, str]) -> bool:
    return any(_letter(line.strip(), options) for line in text.strip().split("\n", 4)[:4])


def _letter(answer: str, options: dict[str, str]) -> str | None:
    """Return the letter of the option that an answer names by its letter, by its text, or by both if they agree."""
    if len(answer) > MAX_CHARS:
        return None
    answer = _plain(answer if answer.isascii() else in_latex(answer))
    if single := _LETTER.fullmatch(answer) or _NOT_OTHERS.fullmatch(answer) or _LEAVING.fullmatch(answer):
        return single.group(1).upper()
    if (suffixed := _TRAILED.fullmatch(answer)) and suffixed[2] in options:  # Berlin (C)
        return suffixed[2] if _is_option(options[suffixed[2]], suffixed[1]) else None
    by_words = [letter for letter, option in options.items() if _spelled(option) == _spelled(answer)]
    if len(by_words) == 1:
        return by_words[0]
    lettered = _LETTERED.fullmatch(answer)
    if lettered is None:
        by_value = [letter for letter, option in options.items() if _is_option(option, answer)]
        return by_value[0] if len(by_value) == 1 else None
    if _UNSURE.match(lettered.group(3)):
        return None
    letter, text = lettered.group(1) or lettered.group(2), lettered.group(3)
    if letter not in options:
        return None if options else letter
    fits = _is_option(options[letter], text) or _spelled(text).startswith(_spelled(options[letter]))
    return letter if fits else None


def _plain(answer: str) -> str:
    """Remove dollar signs, quotes, stars and text commands around an answer."""
    answer = answer.strip().strip('*`"$ ').strip()
    while wrapped := _WRAPPED.fullmatch(answer):
        answer = wrapped.group(1).strip()
    return _LABEL.sub(r"(\1) ", answer).strip()


def _is_option(option: str, answer: str) -> bool:
    """Return whether an answer is an option: the same words, the same number or the same formula when normalized."""
    return _spelled(option) == _spelled(answer) or (
        bool(_FORMULA.search(option)) and bool(answer.strip()) and math.equal_without_algebra(option, answer)
    )


def _spelled(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
