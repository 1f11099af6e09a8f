"""Multiple choice: the final answer is a letter, `B`, `(B)`, `B.`, `option B` or `B) text`, or the text of the right
option.

A letter is always the letter of an option, even where the text of another one is that letter. Two letters, or a
letter with the text of another option, are no choice; "B, not A" and "leaving B" are B.

The options are the list `choices` of the row, if it has one; they are lettered from A in their order.
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
_AGAINST = re.compile(
    rf"{_NAMED}[(\[]?([A-Z])[)\]]?,?\s+(?:(?:and|but)\s+)?(?:not|rather than"
    rf"|instead of)\s+[(\[]?[A-Z][)\]]?(?:\s*(?:,|or|and|nor)\s*[(\[]?[A-Z][)\]]?)*\.?"
)
_LEFT = re.compile(r"[^.?!\n]{0,80}\b(?:leaving|leaves)\s+(?:us\s+with\s+)?(?:only\s+)?[(\[]?([A-Z])[)\]]?\.?")
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
    """Return the letter of the right option.

    Errors: GraderError if the answer is neither a letter nor one of `choices`, or if `choices` is no list of text.
    """
    options = _options(problem)
    if not isinstance(problem.answer, str):
        raise GraderError(f"the choice verifier needs a letter or an option, not {type(problem.answer).__name__}")
    answer = problem.answer.strip()
    letter = answer if answer in options else _letter(answer, options)
    if letter is None or (options and letter not in options):
        raise GraderError("neither a letter nor one of choices")
    return letter


def answer(problem: Problem, text: str) -> str | None:
    """Return the final answer; "answer: B" and a text that is nothing but a choice count too."""
    found = final_answer(text, phrases=True)
    if found is None:
        whole, options = outcome(text).strip(), _options(problem)
        first, _, rest = whole.partition("\n")
        if _letter(whole, options):
            found = whole
        elif chosen := _CHOSEN.search(whole):
            found = chosen[1]
        elif named := _NAMING.search(whole):
            letter = named[1] or named[2]
            rest_of = whole[named.end(1) if named[1] else named.end(2) :]
            found = letter.upper() if not is_taken_back(rest_of, 0) and not _UNSURE.match(rest_of) else None
        elif (
            _letter(first.strip(), options)
            and rest.strip()
            and not is_taken_back(rest, 0)
            and not _starts_with_choice(rest, options)
        ):
            found = first.strip()
    return found


def same(problem: Problem, first: str, second: str) -> bool:
    """Whether two final answers mean the same option."""
    options = _options(problem)
    letter = _letter(first, options)
    return first == second or (letter is not None and letter == _letter(second, options))


def stated(problem: Problem) -> str:
    """Return a text that gives the expected answer."""
    return f"<answer>{gold(problem)}</answer>"


def verify(problem: Problem, text: str) -> GradeResult:
    """Right if the final answer means the right option.

    Example:
        verify(Problem("p", "...", answer="B", meta={"choices": ["Rome", "Paris"]}), "The answer is Paris.").correct
    """
    expected, found = gold(problem), answer(problem, text)
    if not found:
        return UNANSWERED
    letter = _letter(found, _options(problem))
    if letter is None:
        return GradeResult.wrong(f"{found[:80]!a} is neither a letter nor an option")
    return GradeResult.right() if letter == expected else GradeResult.wrong(f"{letter} is not the answer")


def _options(problem: Problem) -> dict[str, str]:
    """The options by letter; none if the row has none."""
    choices: Any = problem.meta.get("choices")
    if choices is None:
        return {}
    if not isinstance(choices, list) or any(not isinstance(choice, str) for choice in choices):
        raise GraderError("choices must be a list of text")
    if not 0 < len(choices) <= len(LETTERS):
        raise GraderError(f"choices must have 1 to {len(LETTERS)} entries")
    return dict(zip(LETTERS, choices, strict=False))


def _starts_with_choice(rest: str, options: dict[str, str]) -> bool:
    return any(_letter(line.strip(), options) for line in rest.strip().split("\n", 4)[:4])


def _letter(said: str, options: dict[str, str]) -> str | None:
    """Which option is meant: by its letter alone, by its text, or by letter and text if they do not disagree."""
    if len(said) > MAX_CHARS:
        return None
    said = _plain(said if said.isascii() else in_latex(said))
    if alone := _LETTER.fullmatch(said) or _AGAINST.fullmatch(said) or _LEFT.fullmatch(said):
        return alone.group(1).upper()
    if (trailed := _TRAILED.fullmatch(said)) and trailed[2] in options:  # Berlin (C)
        return trailed[2] if _is_option(options[trailed[2]], trailed[1]) else None
    by_words = [letter for letter, option in options.items() if _spelled(option) == _spelled(said)]
    if len(by_words) == 1:
        return by_words[0]
    lettered = _LETTERED.fullmatch(said)
    if lettered is None:
        by_value = [letter for letter, option in options.items() if _is_option(option, said)]
        return by_value[0] if len(by_value) == 1 else None
    if _UNSURE.match(lettered.group(3)):
        return None
    letter, text = lettered.group(1) or lettered.group(2), lettered.group(3)
    if letter not in options:
        return None if options else letter
    fits = _is_option(options[letter], text) or _spelled(text).startswith(_spelled(options[letter]))
    return letter if fits else None


def _plain(said: str) -> str:
    """Without dollar signs, quotes, stars and the commands of text around it."""
    said = said.strip().strip('*`"$ ').strip()
    while wrapped := _WRAPPED.fullmatch(said):
        said = wrapped.group(1).strip()
    return _LABEL.sub(r"(\1) ", said).strip()


def _is_option(option: str, said: str) -> bool:
    """Whether a text is an option: the same words, the same number or the same formula in another spelling."""
    return _spelled(option) == _spelled(said) or (
        bool(_FORMULA.search(option)) and bool(said.strip()) and math.equal(option, said)
    )


def _spelled(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
