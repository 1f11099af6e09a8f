"""Answers that are not sent to computer algebra: constructs that might not terminate and that the reference lacks.

Each rule has a code, which the reason of the grade contains. A construct is allowed if the reference answer has it too.
Rejecting is safe, since the answer has already been compared as a number and as text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator

MIN_LENGTH = 512  # characters that are always allowed; beyond it, four times the length of the reference
MAX_DEPTH = 16
MAX_DIGITS = 100  # in a row
MAX_EXPONENT_DIGITS = 4
MAX_POWERS = 12
MAX_COMMAS = 12  # beyond the expected answer's

_TEXT = re.compile(r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\(?:begin|end)\s*\{[A-Za-z]*\*?\}|\\[A-Za-z]+")
_SMALL_BINOMIAL = re.compile(
    r"\\[dt]?binom\s*(?:\{[0-9a-z]{1,3}\}|[0-9a-z ])\s*(?:\{[0-9a-z]{1,3}\}|[0-9a-z])|(?<=[0-9])\s*\\bmod\s*[1-9]"
)
_SMALL_TOWER = re.compile(r"(?<![0-9^{])([2-9]|10)\^\{?[2-3]\^\{?[2-3]\}{0,2}(?![\^0-9])")
_DOTS = re.compile(r"\\[lcd]?dots|\.\.\.")
_WORD = re.compile(r"[A-Za-z]{2,}")
_HEDGES = frozenset(
    re.findall(
        "[a-z]+", "not or and is are if but no maybe either approximately about import exec none undefined unknown"
    )
)
_FUNCTIONS = frozenset(
    re.findall("[a-z]+", "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp sqrt pi max min gcd")
)
_EXPONENT = re.compile(r"(?:\^|\*\*)\s*")
_LONG_POWER = re.compile(rf"[0-9]{{{MAX_EXPONENT_DIGITS + 1},}}|[!^]|\*\*")
_SCIENTIFIC = re.compile(r"[0-9.][eE][-+]?[0-9]{4,}")
_ROOT_INDEX = re.compile(r"\\sqrt\s*\[[^\]]{4,}")
_FACTORIAL = re.compile(r"(?:[0-9]{4,}|[)}\]!])\s*!")
_BASE_NUMBER = re.compile(r"[0-9]\s*_")
_SLOW = re.compile(
    r"\\(?:sum|prod|coprod|i{0,3}nt|oint|lim|limsup|liminf|det|binom|dbinom|tbinom|choose|[bp]?mod|cup|cap|bigcup"
    r"|bigcap|begin|Gamma|zeta|frac\{d|partial|nabla|permil|perp|overset|underset|input|include|def|newcommand|write)"
    r"(?![A-Za-z])"
)
_CHARACTERS = re.compile(r"[^\x20-\x7e\n\t]|[@`\"]|'(?!')|__")


def rejection_code(expected: str, answer: str) -> str | None:
    """Return the code of the first rule that an answer breaks and the expected answer does not, None if none."""
    if len(answer) > max(MIN_LENGTH, 4 * len(expected)):
        return "length"
    for code, breaks in RULES.items():
        if breaks(answer) and not breaks(expected):
            return code
    if answer.count(",") > expected.count(",") + MAX_COMMAS:
        return "list"
    if constructs(answer) - constructs(expected):
        return "construct"
    if {letter.swapcase() for letter in _letters(answer) - _letters(expected)} & _letters(expected):
        return "case"  # x is not X, and math-verify does not distinguish them
    return "words" if _has_foreign_words(expected, answer) else None


def constructs(text: str) -> set[str]:
    """Return the commands in a text on which computer algebra might not terminate."""
    return set(_SLOW.findall(_SMALL_BINOMIAL.sub("", text)))


def _without_commands(text: str) -> str:
    """Return a formula without its commands and without text in words."""
    return _COMMAND.sub(" ", _TEXT.sub(" ", text))


def _letters(text: str) -> set[str]:
    return {letter for letter in _without_commands(text) if letter.isalpha()}


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest


def _exponents(text: str) -> Iterator[str]:
    """Yield every exponent: the bracketed part, or the sign, command or number that follows, with a power on it."""
    for match in _EXPONENT.finditer(text):
        start = end = match.end()
        depth = 0
        while end < len(text):
            depth += (text[end] in "({[") - (text[end] in ")}]")
            end += 1
            if depth <= 0 and not (depth == 0 and re.match(r"[\w.^]", text[end : end + 1])):
                break
        yield text[start:end]


def _has_high_power(text: str) -> bool:
    text = _SMALL_TOWER.sub("", text)
    return any(_LONG_POWER.search(exponent) for exponent in _exponents(text)) or bool(
        _SCIENTIFIC.search(text) or _ROOT_INDEX.search(text)
    )


def _has_odd_characters(text: str) -> bool:
    return bool(_CHARACTERS.search(text)) or any(
        unicodedata.category(character)[0] == "C" for character in text.strip()
    )


def _has_foreign_words(expected: str, answer: str) -> bool:
    """Return whether the answer has hedging words, or words that are neither functions nor letters of the reference."""
    expected_words = {word.lower() for word in _WORD.findall(expected)}
    answer_words = {word.lower() for word in _WORD.findall(_COMMAND.sub(" ", answer))}
    if answer_words & _HEDGES - expected_words:
        return True
    plain = _without_commands(answer)
    letters = set(_COMMAND.sub(" ", expected))
    allowed = expected_words | _FUNCTIONS
    return any(word.lower() not in allowed and not set(word) <= letters for word in _WORD.findall(plain))


RULES: dict[str, Callable[[str], bool]] = {
    "characters": _has_odd_characters,
    "nesting": lambda text: _depth(text) > MAX_DEPTH or text.count("|") > 2 * MAX_DEPTH,
    "digits": lambda text: bool(re.search(rf"[0-9]{{{MAX_DIGITS + 1},}}", text)),
    "exponent": _has_high_power,
    "powers": lambda text: len(_EXPONENT.findall(text)) > MAX_POWERS,
    "factorial": lambda text: bool(_FACTORIAL.search(text)),
    "percent": lambda text: "%" in text,
    "dots": lambda text: bool(_DOTS.search(text)),
    "base": lambda text: bool(_BASE_NUMBER.search(text)),
}
